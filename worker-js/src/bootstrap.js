// The guest's world: what a bundle finds beside the language itself. Called
// once per generation with the native functions; what it returns goes to the
// worker. It takes what it needs from the globals before any bundle runs, so
// that no bundle can change how errors, timers and values are handled.
(function (native) {
  "use strict";

  const { isArray, from: arrayFrom } = Array;
  const { getPrototypeOf, setPrototypeOf, getOwnPropertyDescriptor, defineProperty } = Object;
  const { ownKeys } = Reflect;
  const ObjectPrototype = Object.prototype;
  const TypedArray = getPrototypeOf(Uint8Array);
  const typedArrayName = getOwnPropertyDescriptor(TypedArray.prototype, Symbol.toStringTag).get;
  const IDENTIFIER = /^[\p{ID_Start}$_][\p{ID_Continue}$_]*$/u;

  const define = (object, name, value) =>
    defineProperty(object, name, { value, writable: true, enumerable: false, configurable: true });

  // ---- the module "menagerie" ----

  class CallError extends Error {
    constructor(kind, message, options) {
      super(message, options);
      this.kind = kind;
      // What a caller further out is told of it, if the bundle lets it through.
      this.code = kind;
    }
  }
  define(CallError.prototype, "name", "CallError");

  class RemoteError extends Error {}

  // Told as a list: type, message, stack, code, help, url, and such lists for its causes.
  function remoteError(told) {
    const error = new RemoteError(told[1]);
    define(error, "name", told[0]);
    define(error, "stack", told[2]);
    if (told[3] !== undefined) error.code = told[3];
    if (told[4] !== undefined) error.help = told[4];
    if (told[5] !== undefined) error.url = told[5];
    const causes = told[6];
    for (let i = 0; i < causes.length; i += 1) causes[i] = remoteError(causes[i]);
    if (causes.length === 1) define(error, "cause", causes[0]);
    if (causes.length > 1) define(error, "errors", causes);
    return error;
  }

  function makeCallError(kind, message, told) {
    if (told === undefined) return new CallError(kind, message);
    const cause = remoteError(told);
    const error = new CallError(kind, message, { cause });
    if (cause.help !== undefined) error.help = cause.help;
    if (cause.url !== undefined) error.url = cause.url;
    return error;
  }

  const LEVELS = ["trace", "debug", "info", "warn", "error"];

  const api = {
    call: async (contract, name, ...args) => native.call(contract, name, args),
    log(level, message) {
      const number = LEVELS.indexOf(level === "warning" ? "warn" : level);
      if (number < 0) throw new TypeError(`log: the level is one of ${LEVELS.join(", ")}`);
      native.log(number, "log", typeof message === "string" ? message : inspect(message));
    },
    CallError,
    abort: () => native.abort(),
  };

  // ---- console and print ----

  function inspect(value, depth = 4, seen = [], nested = false) {
    switch (typeof value) {
      case "string": return nested ? JSON.stringify(value) : value;
      case "bigint": return `${value}n`;
      case "symbol": return value.toString();
      case "number": return Object.is(value, -0) ? "-0" : String(value);
      case "function": return inspectFunction(value);
      case "object": return value === null ? "null" : inspectObject(value, depth, seen);
      default: return String(value);
    }
  }

  function inspectFunction(value) {
    const kind = Function.prototype.toString.call(value).startsWith("class") ? "class" : "Function";
    return `[${kind}${value.name ? ": " + value.name : " (anonymous)"}]`;
  }

  function className(value) {
    for (let o = value; o !== null; o = getPrototypeOf(o)) {
      const constructor = getOwnPropertyDescriptor(o, "constructor")?.value;
      if (typeof constructor === "function" && constructor.name) return constructor.name;
    }
    return null;
  }

  function inspectError(error, depth, seen) {
    const head = `${error.name}: ${error.message}`;
    const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
    let text = stack === "" ? head : stack.startsWith(head) ? stack : `${head}\n${stack}`;
    if (error.cause !== undefined) {
      text += `\nCaused by: ${inspect(error.cause, depth - 1, seen, true)}`;
    }
    return text;
  }

  function inspectObject(value, depth, seen) {
    if (seen.includes(value)) return "[Circular]";
    const name = className(value);
    if (depth === 0) return isArray(value) ? "[Array]" : `[${name ?? "Object"}]`;
    const inner = [...seen, value];
    const show = (v) => inspect(v, depth - 1, inner, true);
    try {
      if (value instanceof Error) return inspectError(value, depth, inner);
      if (value instanceof Date) return isNaN(value) ? "Invalid Date" : value.toISOString();
      if (value instanceof RegExp) return String(value);
      if (value instanceof Promise) return "Promise {}";
      if (value instanceof ArrayBuffer) return `ArrayBuffer { byteLength: ${value.byteLength} }`;
      if (isArray(value)) return wrap("[", items(value, value.length, show), "]");
      const typed = typedArrayName.call(value);
      if (typed) return wrap(`${typed}(${value.length}) [`, items(value, value.length, show), "]");
      if (value instanceof Map) {
        const pairs = arrayFrom(value, ([k, v]) => `${show(k)} => ${show(v)}`);
        return wrap(`Map(${value.size}) {`, pairs, "}");
      }
      if (value instanceof Set) return wrap(`Set(${value.size}) {`, arrayFrom(value, show), "}");
      const fields = [];
      for (const key of ownKeys(value)) {
        const property = getOwnPropertyDescriptor(value, key);
        if (!property?.enumerable) continue;
        const label = typeof key === "symbol" ? `[${key.toString()}]`
          : IDENTIFIER.test(key) ? key : JSON.stringify(key);
        // A getter is not run: looking at an object must not change it.
        fields.push(`${label}: ${"value" in property ? show(property.value) : "[Getter]"}`);
        if (fields.length > 100) { fields.push("..."); break; }
      }
      const prefix = getPrototypeOf(value) === null ? "[Object: null prototype] "
        : name === null || name === "Object" ? "" : `${name} `;
      return wrap(`${prefix}{`, fields, "}");
    } catch (error) {
      return `[${name ?? "Object"}: not shown, inspecting it threw]`;
    }
  }

  function items(list, length, show) {
    const shown = [];
    for (let i = 0; i < length && i < 100; i++) shown.push(i in list ? show(list[i]) : "<empty>");
    if (length > 100) shown.push(`... ${length - 100} more items`);
    return shown;
  }

  function wrap(open, parts, close) {
    if (parts.length === 0) return open + close;
    const line = parts.join(", ");
    if (line.length <= 72 && !line.includes("\n")) return `${open} ${line} ${close}`;
    return `${open}\n  ${parts.map((p) => p.replaceAll("\n", "\n  ")).join(",\n  ")}\n${close}`;
  }

  function format(args) {
    let rest = args;
    let text = [];
    if (typeof args[0] === "string" && args.length > 1 && args[0].includes("%")) {
      let next = 1;
      text.push(args[0].replace(/%[sdifjoOc%]/g, (code) => {
        if (code === "%%") return "%";
        if (next >= args.length) return code;
        const arg = args[next++];
        switch (code) {
          case "%s": return typeof arg === "string" ? arg : inspect(arg, 1);
          case "%d": return typeof arg === "bigint" ? `${arg}n` : String(Number(arg));
          case "%i": return typeof arg === "bigint" ? `${arg}n` : String(parseInt(arg, 10));
          case "%f": return String(parseFloat(arg));
          case "%j": return JSON.stringify(arg);
          case "%c": return "";
          default: return inspect(arg, 4, [], true);
        }
      }));
      rest = args.slice(next);
    }
    for (const arg of rest) text.push(inspect(arg));
    return text.join(" ");
  }

  // Within `console.group`, lines are indented.
  let indent = "";

  function tell(level, text) {
    native.log(level, "console", indent + text.replaceAll("\n", `\n${indent}`));
  }

  // A row for each entry, a column for each property that a row has; a row that is
  // no object has its value in a column of its own.
  function table(data, only) {
    const pairs = data instanceof Map ? arrayFrom(data)
      : data instanceof Set ? arrayFrom(data).map((value, index) => [index, value])
      : Object.entries(data);
    const cell = (value) => inspect(value, 1, [], true).replaceAll("\n", " ");
    const name = (index) => typeof index === "string" ? index : cell(index);
    const columns = new Set(only);
    let plain = false;
    const rows = pairs.slice(0, 100).map(([index, row]) => {
      const cells = new Map();
      if (typeof row !== "object" || row === null) {
        plain = true;
        return { index: name(index), cells, value: cell(row) };
      }
      for (const [key, value] of Object.entries(row)) {
        if (only === undefined) columns.add(key);
        cells.set(key, cell(value));
      }
      return { index: name(index), cells, value: "" };
    });
    const keys = [...columns];
    const lines = [["(index)", ...keys.map(String), ...(plain ? ["Values"] : [])]];
    for (const { index, cells, value } of rows) {
      lines.push([index, ...keys.map((key) => cells.get(key) ?? ""), ...(plain ? [value] : [])]);
    }
    const widths = lines[0].map((_, column) => Math.max(...lines.map((line) => line[column].length)));
    const text = lines.map((line) => line.map((c, column) => c.padEnd(widths[column])).join(" │ ").trimEnd());
    text.splice(1, 0, widths.map((width) => "─".repeat(width)).join("─┼─"));
    if (pairs.length > rows.length) text.push(`... ${pairs.length - rows.length} more rows`);
    return text.join("\n");
  }

  const counts = new Map();
  const clocks = new Map();

  function lap(what, label, ...args) {
    const begun = clocks.get(label);
    if (begun === undefined) return tell(3, `${what}: there is no timer '${label}'`);
    const time = `${label}: ${(native.now() - begun).toFixed(3)} ms`;
    tell(2, args.length === 0 ? time : `${time} ${format(args)}`);
  }

  const logger = (level) => (...args) => tell(level, format(args));
  const console = {
    trace: logger(0), debug: logger(1), log: logger(2), info: logger(2), warn: logger(3), error: logger(4),
    dirxml: logger(2),
    dir: (value) => tell(2, inspect(value)),
    assert(condition, ...args) {
      if (!condition) tell(4, format(["Assertion failed", ...args]));
    },
    table(data, only) {
      let text;
      if (typeof data === "object" && data !== null) {
        try { text = table(data, only); } catch { /* A getter or a proxy threw. */ }
      }
      tell(2, text ?? inspect(data));
    },
    group(...args) {
      if (args.length > 0) tell(2, format(args));
      // Whoever never ends a group has lines no longer than these.
      if (indent.length < 64) indent += "  ";
    },
    groupCollapsed(...args) { console.group(...args); },
    groupEnd() { indent = indent.slice(2); },
    count(label = "default") {
      label = String(label);
      counts.set(label, (counts.get(label) ?? 0) + 1);
      tell(2, `${label}: ${counts.get(label)}`);
    },
    countReset(label = "default") { counts.delete(String(label)); },
    time(label = "default") { clocks.set(String(label), native.now()); },
    timeLog(label = "default", ...args) { lap("timeLog", String(label), ...args); },
    timeEnd(label = "default") {
      lap("timeEnd", String(label));
      clocks.delete(String(label));
    },
    clear() {},
  };
  define(globalThis, "console", console);

  define(globalThis, "print", function print(...args) {
    for (const line of format(args).split("\n")) native.log(2, "stdout", line);
  });

  // ---- timers and microtasks ----

  const timers = new Map();
  let nextTimer = 1;

  function startTimer(name, callback, delay, args, repeat) {
    if (typeof callback !== "function") throw new TypeError(`${name}: the callback is no function`);
    const milliseconds = Math.max(0, Number(delay) || 0);
    // A repeated timer of no delay would never let anything else run.
    const every = repeat ? Math.max(1, milliseconds) : null;
    const id = nextTimer++;
    timers.set(id, { callback, args, every });
    native.setTimer(id, every ?? milliseconds);
    return id;
  }

  function clear(id) {
    if (timers.delete(id)) native.clearTimer(id);
  }

  function fireTimer(id) {
    const timer = timers.get(id);
    if (timer === undefined) return;
    if (timer.every === null) timers.delete(id);
    else native.setTimer(id, timer.every);
    timer.callback.apply(undefined, timer.args);
  }

  define(globalThis, "setTimeout", function setTimeout(callback, delay, ...args) {
    return startTimer("setTimeout", callback, delay, args, false);
  });
  define(globalThis, "setInterval", function setInterval(callback, delay, ...args) {
    return startTimer("setInterval", callback, delay, args, true);
  });
  define(globalThis, "clearTimeout", function clearTimeout(id) { clear(id); });
  define(globalThis, "clearInterval", function clearInterval(id) { clear(id); });

  const resolved = Promise.resolve();
  const then = Promise.prototype.then;
  define(globalThis, "queueMicrotask", function queueMicrotask(callback) {
    if (typeof callback !== "function") throw new TypeError("queueMicrotask: the callback is no function");
    then.call(resolved, () => callback());
  });

  // Subscribes to the promise of a call; the natives never throw.
  function follow(promise, id) {
    then.call(promise, (value) => native.settle(id, true, value), (error) => native.settle(id, false, error));
  }

  // ---- values that leave ----

  const { forEach: eachOfMap, has: mapHas } = Map.prototype;
  const mapSize = getOwnPropertyDescriptor(Map.prototype, "size").get;
  const UNSAFE = 2n ** 53n;

  // The keys and values of a Map in turn; nothing if it is none, whatever its name says.
  // Keys that are one outside JavaScript would lose a value.
  function mapEntries(map) {
    try { mapSize.call(map); } catch { return undefined; }
    const twice = (one, other) =>
      new TypeError(`a Map with the keys ${one} and ${other} cannot leave JavaScript: they are one there`);
    const entries = [];
    let length = 0;
    eachOfMap.call(map, (value, key) => {
      if (typeof key === "bigint" && -UNSAFE < key && key < UNSAFE && mapHas.call(map, Number(key))) {
        throw twice(key, `${key}n`);
      }
      entries[length++] = key;
      entries[length++] = value;
    });
    if (mapHas.call(map, null) && mapHas.call(map, undefined)) throw twice(null, undefined);
    return entries;
  }

  // A script may give the usual prototype of arrays setters for numbers.
  const makeList = () => setPrototypeOf([], null);

  // `import()`: the module runs when the one that imports it awaits.
  function importLater(referrer, specifier, json) {
    return then.call(resolved, () => {
      const [evaluated, namespace] = native.import(referrer, specifier, json);
      return then.call(evaluated, () => namespace);
    });
  }

  // ---- text, time, copies ----

  class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return native.encodeUtf8(String(text)); }
  }

  class TextDecoder {
    #fatal;
    #keepMark;
    constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
      if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(String(label).trim().toLowerCase())) {
        throw new RangeError(`TextDecoder: the encoding '${label}' is not supported, only utf-8 is`);
      }
      this.#fatal = Boolean(fatal);
      this.#keepMark = Boolean(ignoreBOM);
    }
    get encoding() { return "utf-8"; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#keepMark; }
    decode(input = new Uint8Array()) {
      const view = input instanceof ArrayBuffer ? new Uint8Array(input) : input;
      const text = native.decodeUtf8(view, this.#fatal);
      return !this.#keepMark && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
    }
  }

  define(globalThis, "TextEncoder", TextEncoder);
  define(globalThis, "TextDecoder", TextDecoder);
  define(globalThis, "performance", { now: () => native.now() });

  // A bytes argument may be a view of memory that is the caller's. These would
  // move that memory to a buffer that outlives the call, so they copy.
  const byteLength = getOwnPropertyDescriptor(ArrayBuffer.prototype, "byteLength").get;
  for (const name of ["transfer", "transferToFixedLength"]) {
    define(ArrayBuffer.prototype, name, {
      [name](length = byteLength.call(this)) {
        const from = new Uint8Array(this);
        const copy = new Uint8Array(length);
        copy.set(from.length > copy.length ? from.subarray(0, copy.length) : from);
        native.detach(this);
        return copy.buffer;
      },
    }[name]);
  }
  delete ArrayBuffer.prototype.transferToImmutable;

  // Such a view is read-only memory as well, which the engine itself forgets in
  // its atomics: there a write would end the process.
  const bufferOf = getOwnPropertyDescriptor(TypedArray.prototype, "buffer").get;
  const isImmutable = getOwnPropertyDescriptor(ArrayBuffer.prototype, "immutable")?.get;
  if (isImmutable !== undefined) {
    for (const name of ["add", "and", "compareExchange", "exchange", "or", "store", "sub", "xor"]) {
      const original = Atomics[name];
      define(Atomics, name, {
        [name](view, ...rest) {
          const buffer = bufferOf.call(view);
          if (buffer instanceof ArrayBuffer && isImmutable.call(buffer)) {
            throw new TypeError("ArrayBuffer is immutable");
          }
          return original(view, ...rest);
        },
      }[name]);
    }
  }

  return {
    api, fireTimer, follow, importLater, makeCallError,
    isWellFormed: String.prototype.isWellFormed, isArray: Array.isArray,
    mapEntries, makeList, ObjectPrototype,
  };
})
