//! Greets people.

struct Greeter;

#[menagerie_guest::contract("greeter@1")]
impl Greeter {
    fn greet(name: String) -> String {
        format!("Hello, {name}")
    }

    fn greet_all(names: Vec<String>) -> Vec<String> {
        names.into_iter().map(Self::greet).collect()
    }
}
