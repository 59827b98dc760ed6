// Films and replies as the page's scripts know them.

/** A reply of the server, whole; changes go into its top level. */
export function reply(probability = 0.9, changes = {}) {
  return {
    model: { name: "pneumonia", version: "1.0.0", arch: "resnet152", weights_sha256: "ab".repeat(32) },
    label: probability >= 0.5 ? "PNEUMONIA" : "NORMAL",
    probabilities: { NORMAL: 1 - probability, PNEUMONIA: probability },
    logits: { NORMAL: -1, PNEUMONIA: 1 },
    decision: { threshold: 0.5, indeterminate: false },
    cam: { grid: [[0.5, 1.5], [-0.5, 0.5]], bias: 1.5, png: "AAAA" },
    image: { format: "PNG", width: 200, height: 180, flags: [], png: "AAAA" },
    request_id: "4f1c",
    ...changes,
  };
}

let number = 0;

/** A film of the worklist that was answered. */
export const answered = (name, probability, changes = {}) => ({ id: ++number, name, state: "done", progress: 1, reply: reply(probability, changes), error: null });

/** A film of the worklist that has no answer. */
export const failed = (name, error = { kind: "refused", code: "DAMAGED_IMAGE", retryable: false }) => ({ id: ++number, name, state: "failed", progress: 0, reply: null, error });

/** A film of the worklist that is on its way. */
export const waiting = (name) => ({ id: ++number, name, state: "waiting", progress: 0, reply: null, error: null });
