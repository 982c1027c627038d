// What the bundle {{name}} does.
export default {
  "{{name}}@1": {
    greet(name) {
      return `Hello, ${name}`;
    },

    add(a, b) {
      return a + b;
    },
  },
};
