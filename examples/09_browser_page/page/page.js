import { readByEventSource, readByFetch } from "./events.js";

const [chat, form, state] = ["chat", "form", "state"].map((id) => document.getElementById(id));

async function ask(path, body = {}) {
  const response = await fetch(path, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.message);
  return answer;
}

function bubble(who) {
  const element = document.createElement("p");
  element.className = who;
  return chat.appendChild(element);
}

const { gateway, sessionId } = await ask("/session");
state.textContent = `session ${sessionId.slice(0, 8)}, ready`;
form.querySelector("button").disabled = false;

form.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const { text, how } = Object.fromEntries(new FormData(form));
  form.elements.text.value = "";
  bubble("user").textContent = text;
  const answer = bubble("agent");
  try {
    await follow(await ask("/prompt", { sessionId, text }), answer, how);
  } catch (error) {
    bubble("error").textContent = error.message;
  }
  answer.classList.add("done");
});

// Show one run. If its stream is lost, resume after the last event received.
function follow({ requestId }, answer, how) {
  let after = "";
  async function open() {
    const { ticket } = await ask("/ticket", { sessionId });
    const query = new URLSearchParams({ ticket, requestId, ...(after && { after }) });
    return `${gateway}/v1/sessions/${sessionId}/events?${query}`;
  }
  function take({ id, event, data }) {
    after = id;
    state.textContent = `session ${sessionId.slice(0, 8)}, ${event}`;
    if (event === "message_delta") answer.append(data.delta); // as text, never as HTML: model output is untrusted
    if (event === "error" || event === "agent_abort") bubble("error").textContent = data.reason;
    answer.scrollIntoView({ block: "end" });
  }
  return how === "fetch" ? readByFetch(open, take) : readByEventSource(open, take);
}
