// Does one thing of every kind that a bundle can do, for the tests.
import { abort, call, CallError, log } from "menagerie";

let loadedWith = null;
let dir = null;
let toKeep = null;

// What the previous generation's on_unload returned, or null.
export function on_load(context) {
  loadedWith = context.state;
  dir = context.dir;
}

export function on_unload() {
  return toKeep;
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export default {
  "probe@1": {
    // A BigInt in, where a number is not exact, is a BigInt out.
    inc(n) {
      if (typeof n !== "number" && typeof n !== "bigint") {
        throw new TypeError(`inc: expected an integer, got ${typeof n}`);
      }
      return ++n;
    },

    echo: (value) => value,

    fail(message) {
      throw new Error(message);
    },

    crash() {
      abort();
    },

    spin() {
      for (;;);
    },

    // While this one awaits, other calls run.
    async sleep_ms(ms) {
      await sleep(ms);
    },

    null: () => null,

    blob: (n) => new Uint8Array(n).fill(0xab),

    call: (contract, name, args) => call(contract, name, ...args),

    // How the call failed, or null if it did not.
    async caught(contract, name, args) {
      try {
        await call(contract, name, ...args);
        return null;
      } catch (error) {
        if (!(error instanceof CallError)) throw error;
        return error.kind;
      }
    },

    state: () => loadedWith,

    dir: () => dir,

    set_state(value) {
      // Large bytes are the caller's own: what outlives the call is a copy.
      toKeep = value instanceof Uint8Array ? value.slice() : value;
    },

    // A result that cannot leave.
    misfit: () => () => {},

    say(text) {
      print(`${text} on stdout`);
      console.error(`${text} on the console`);
      log("warn", `${text} in the log`);
    },
  },
};
