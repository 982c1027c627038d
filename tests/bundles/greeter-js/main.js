// A bundle exports its contracts, and each contract its functions.
export default {
  "greeter@1": {
    greet(name) {
      return `Hello, ${name}`;
    },

    greet_all(names) {
      return names.map((name) => this.greet(name));
    },
  },
};
