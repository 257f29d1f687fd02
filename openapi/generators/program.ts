// A stranger's program over what two generators made of the published schemas. It is compiled, and never run:
// `nox -s generators`.

import type { Event } from "./made/events.js";
import type { components, paths } from "./made/openapi.js";

type Described = components["schemas"]["Event"];
type Created = paths["/v1/sessions"]["post"]["responses"][201]["content"]["application/json"];
type Settings = paths["/v1/sessions"]["post"]["requestBody"]["content"]["application/json"];

// Both documents tell of the same events.
export const fromOne = (event: Described): Event => event;
export const toTheOther = (event: Event): Described => event;

export const settings: Settings = { model: "scripted:hello", tools: ["ask_user"], approval: { tools: ["*"], timeoutMs: 0 } };
export const idOf = (created: Created): string => created.sessionId;

// Whoever forgets an event does not get this compiled.
export function told(event: Event): string {
  switch (event.event) {
    case "prompt_received":
      return event.data.text;
    case "agent_start":
    case "thinking_start":
    case "message_start":
      return event.data.requestId;
    case "thinking_delta":
    case "message_delta":
      return event.data.delta;
    case "tool_calls":
      return event.data.count.toFixed();
    case "approval_required":
      return `${event.data.approvalId} ${event.data.toolName} ${event.data.expiresAt?.toFixed() ?? ""}`;
    case "approval_resolved":
      return event.data.status satisfies "approved" | "rejected" | "expired" | "cancelled";
    case "tool_execution_start":
      return Object.keys(event.data.args).join();
    case "ask_user":
      return event.data.options?.join() ?? event.data.question;
    case "tool_execution_end":
      return event.data.status satisfies "ok" | "error";
    case "error":
    case "agent_abort":
      return event.data.reason;
    case "agent_end":
      return event.data.lastMessage?.content ?? "";
    default:
      return event satisfies never;
  }
}

// @ts-expect-error: there is no such event
export const wrong: Event = { event: "agent_stop", data: { requestId: "r" } };
