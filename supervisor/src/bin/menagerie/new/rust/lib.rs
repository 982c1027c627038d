//! What the bundle {{name}} does.

struct Bundle;

#[menagerie_guest::contract("{{name}}@1")]
impl Bundle {
    fn greet(name: String) -> String {
        format!("Hello, {name}")
    }

    fn add(a: i64, b: i64) -> i64 {
        a + b
    }
}
