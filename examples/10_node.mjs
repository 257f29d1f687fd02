// Node without an SDK: JSON over fetch, and a hand-written parser for the event stream. Needs Node 18 or newer.

import assert from "node:assert/strict";

const base = process.env.CMDC_BASE_URL ?? "http://127.0.0.1:4000";
const headers = { "X-API-Key": process.env.CMDC_API_KEY, "Content-Type": "application/json" };

async function call(method, path, body) {
  const response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  // Every error has these two members: `error` is a code for programs, `message` a sentence for people.
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${answer.error}: ${answer.message}`);
  return answer;
}

// Server-sent events: `name: value` lines, and a blank line after each event. Lines that start with ":" are heartbeats.
async function* events(path) {
  const response = await fetch(base + path, { headers });
  assert.equal(response.status, 200);
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const frames = (text + chunk).split("\n\n");
    text = frames.pop(); // incomplete frame
    for (const frame of frames) {
      const lines = frame.split("\n").filter((line) => !line.startsWith(":"));
      const { id, event, data } = Object.fromEntries(lines.map((line) => [line.split(":", 1)[0], line.replace(/^\w+: ?/, "")]));
      yield { id, event, data: JSON.parse(data) };
    }
  }
}

const { sessionId } = await call("POST", "/v1/sessions", { model: "scripted:demo", tools: ["ask_user"] });
const script = {
  replies: [
    { toolCalls: [{ name: "ask_user", args: { question: "Tea or coffee?", options: ["tea", "coffee"] } }] },
    { text: ["Here ", "you ", "are."] },
  ],
};
const text = "Serve me something.\n```script\n" + JSON.stringify(script) + "\n```";
const { requestId } = await call("POST", `/v1/sessions/${sessionId}/prompt`, { text });

let reply = "";
let last;
for await (last of events(`/v1/sessions/${sessionId}/events?requestId=${requestId}`)) {
  if (last.event === "ask_user") {
    console.log(last.data.question);
    await call("POST", `/v1/sessions/${sessionId}/respond`, { ref: last.data.ref, response: "tea" });
  }
  if (last.event === "message_delta") reply += last.data.delta;
}
console.log(reply);
assert.equal(last.event, "agent_end");
assert.equal(reply, "Here you are.");
assert.deepEqual(await call("DELETE", `/v1/sessions/${sessionId}`), { sessionId, status: "deleted" });
