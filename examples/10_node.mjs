// Node without an SDK: JSON over fetch, and a stream of events read by hand. Needs Node 18 or newer.

import assert from "node:assert/strict";

const base = process.env.CMDC_BASE_URL ?? "http://127.0.0.1:4000";
const headers = { "X-API-Key": process.env.CMDC_API_KEY, "Content-Type": "application/json" };

async function ask(method, path, body) {
  const response = await fetch(base + path, { method, headers, body: body && JSON.stringify(body) });
  const answer = await response.json();
  // Every error has the same two members; `error` is the code to go by, `message` is for people.
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${answer.error}: ${answer.message}`);
  return answer;
}

// Server-sent events: lines `name: value`, a blank line after each event. A line that begins with ":" is a heartbeat.
async function* events(path) {
  const response = await fetch(base + path, { headers });
  assert.equal(response.status, 200);
  let text = "";
  for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
    const frames = (text + chunk).split("\n\n");
    text = frames.pop(); // not complete yet
    for (const frame of frames) {
      const lines = frame.split("\n").filter((line) => !line.startsWith(":"));
      const { id, event, data } = Object.fromEntries(lines.map((line) => [line.split(":", 1)[0], line.replace(/^\w+: ?/, "")]));
      yield { id, event, data: JSON.parse(data) };
    }
  }
}

const { sessionId } = await ask("POST", "/v1/sessions", { model: "scripted:demo", tools: ["ask_user"] });
const script = {
  replies: [
    { toolCalls: [{ name: "ask_user", args: { question: "Tea or coffee?", options: ["tea", "coffee"] } }] },
    { text: ["Here ", "you ", "are."] },
  ],
};
const text = "Serve me something.\n```script\n" + JSON.stringify(script) + "\n```";
const { requestId } = await ask("POST", `/v1/sessions/${sessionId}/prompt`, { text });

let said = "";
let last;
for await (last of events(`/v1/sessions/${sessionId}/events?requestId=${requestId}`)) {
  if (last.event === "ask_user") {
    console.log(last.data.question);
    await ask("POST", `/v1/sessions/${sessionId}/respond`, { ref: last.data.ref, response: "tea" });
  }
  if (last.event === "message_delta") said += last.data.delta;
}
console.log(said);
assert.equal(last.event, "agent_end");
assert.equal(said, "Here you are.");
assert.deepEqual(await ask("DELETE", `/v1/sessions/${sessionId}`), { sessionId, status: "deleted" });
