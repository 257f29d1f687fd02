// Two ways to read the events of a run in a browser. Each calls `open` for a URL with a new ticket whenever it connects,
// passes each event to `take`, and resolves when the run ends.

const TERMINAL = ["agent_end", "agent_abort"];
const TYPES = [
  ...["prompt_received", "agent_start", "thinking_start", "thinking_delta", "message_start", "message_delta"],
  ...["tool_calls", "approval_required", "approval_resolved", "tool_execution_start", "ask_user"],
  ...["tool_execution_end", "error", ...TERMINAL],
];

// EventSource reconnects by itself, but always to the same URL, and a ticket is valid only once. So it is closed on error.
export const readByEventSource = (open, take) =>
  keepReading(open, (address) => new Promise((resolve) => {
    const source = new EventSource(address);
    const end = (finished) => (source.close(), resolve(finished));
    for (const type of TYPES) {
      source.addEventListener(type, ({ data, lastEventId }) => {
        if (data === undefined) return end(false); // EventSource's own "error" (connection lost) has no data; the gateway's has
        take({ id: lastEventId, event: type, data: JSON.parse(data) });
        if (TERMINAL.includes(type)) end(true);
      });
    }
  }));

// The same with fetch, which can set headers and shows why the gateway rejected a stream.
export const readByFetch = (open, take) =>
  keepReading(open, async (address) => {
    const response = await fetch(address);
    if (!response.ok) throw new Error((await response.json()).message);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return false;
      const frames = (text + value).split("\n\n");
      text = frames.pop(); // incomplete frame
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
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // fetch reports a lost connection as a TypeError
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
