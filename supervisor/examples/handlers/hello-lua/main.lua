return {
  ["handler@1"] = {
    get = function(path) return "Hello, " .. path .. "\n" end,
  },
}
