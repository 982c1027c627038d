// The count survives reloads.
let count = 0;

export function on_load(context) {
  count = context.state ?? 0;
}

export function on_unload() {
  return count;
}

export default {
  "handler@1": {
    get: (path) => `${path}: request ${++count}\n`,
  },
};
