// Two ways to read a run's events in a browser. Both ask `open` for the address, and so for a new ticket, each time that
// they have to connect, hand each event to `take`, and end with the run.

const TERMINAL = ["agent_end", "agent_abort"];
const TYPES = [
  ...["prompt_received", "agent_start", "thinking_start", "thinking_delta", "message_start", "message_delta"],
  ...["tool_calls", "approval_required", "approval_resolved", "tool_execution_start", "ask_user"],
  ...["tool_execution_end", "error", ...TERMINAL],
];

// The browser's own reader. It would come back by itself, but to the same address; and a ticket is good only once.
export const readByEventSource = (open, take) =>
  keepReading(open, (address) => new Promise((resolve) => {
    const source = new EventSource(address);
    const end = (whether) => (source.close(), resolve(whether));
    for (const type of TYPES) {
      source.addEventListener(type, ({ data, lastEventId }) => {
        if (data === undefined) return end(false); // the browser's own "error", a lost connection: ours has data
        take({ id: lastEventId, event: type, data: JSON.parse(data) });
        if (TERMINAL.includes(type)) end(true);
      });
    }
  }));

// The same over fetch, which can also set headers, and tells why a stream is refused.
export const readByFetch = (open, take) =>
  keepReading(open, async (address) => {
    const response = await fetch(address);
    if (!response.ok) throw new Error((await response.json()).message);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return false;
      const frames = (text + value).split("\n\n");
      text = frames.pop(); // not complete yet
      for (const frame of frames) {
        const lines = frame.split("\n").filter((line) => !line.startsWith(":")); // a heartbeat
        const { id, event, data } = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s)));
        take({ id, event, data: JSON.parse(data) });
        if (TERMINAL.includes(event)) return true;
      }
    }
  });

async function keepReading(open, read) {
  for (;;) {
    try {
      if (await read(await open())) return;
    } catch (failure) {
      if (!(failure instanceof TypeError)) throw failure; // a TypeError is how fetch tells of a lost connection
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
