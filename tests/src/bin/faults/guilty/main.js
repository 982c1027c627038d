// Commits every fault that JavaScript can.
import { abort } from "menagerie";

const when = "never";

if (when === "init") abort();

export function on_unload() {
  if (when === "unload") abort();
}

const deeper = (n) => 1 + deeper(n + 1);

const faults = {
  abort: () => abort(),
  stack: () => deeper(0),
  memory() {
    const kept = [];
    for (;;) kept.push(new Uint8Array(16 << 20).fill(1));
  },
  spin() {
    for (;;);
  },
  // A promise that nobody keeps.
  sleep: () => new Promise(() => {}),
  stderr() {
    const line = "x".repeat(65535);
    for (let i = 0; i < 1600; i++) console.error(line);
  },
};

export default {
  "guilty@1": {
    commit: (fault) => faults[fault](),
    inc: (n) => n + 1,
  },
};
