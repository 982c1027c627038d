//! A text editor whose commands are plugins, in Lua, Python and JavaScript: what
//! the user has typed survives whatever they do.
//!
//!     cargo run --example editor

#![allow(clippy::print_stdout, reason = "an example")]

use std::error::Error;

use menagerie_supervisor::{Failure, Supervisor};

/// What a user would have in `~/.config/editor/plugins`.
const PLUGINS: [(&str, &str, &str); 3] = [
    (
        "sort",
        "lua",
        r#"
return { ["command@1"] = {
  run = function(text)
    local lines = {}
    for line in text:gmatch("[^\n]+") do lines[#lines + 1] = line end
    table.sort(lines)
    return table.concat(lines, "\n")
  end,
} }"#,
    ),
    (
        "title",
        "python",
        r#"
import menagerie

@menagerie.export("command@1")
def run(text: str) -> str:
    return text.title()
"#,
    ),
    (
        "broken",
        "js",
        r#"
import { abort } from "menagerie";
export default { "command@1": { run(text) { abort(); } } };"#,
    ),
];

/// The editor: a buffer, and commands that change it.
struct Editor {
    text: String,
    supervisor: Supervisor,
}

impl Editor {
    async fn run(&mut self, command: &str) -> Result<(), Failure> {
        let plugin = self.supervisor.contract(&format!("{command}/command@1"))?;
        // Only an answer changes the buffer.
        self.text = plugin.call("run", (self.text.as_str(),)).await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let supervisor = Supervisor::builder().start()?;
    for (name, loader, code) in PLUGINS {
        let manifest =
            format!("name = \"{name}\"\nloader = \"{loader}\"\nprovides = [\"command@1\"]");
        supervisor.load_code(&manifest, code).await?;
    }
    let text = "the quick fox\na lazy dog\nsome cat".to_owned();
    let mut editor = Editor { text, supervisor: supervisor.clone() };
    for command in ["sort", "title", "broken", "sort"] {
        match editor.run(command).await {
            Ok(()) => println!("{command}:\n{}\n", editor.text),
            Err(failure) => println!("{command} failed: {failure}\n"),
        }
    }
    assert_eq!(editor.text, "A Lazy Dog\nSome Cat\nThe Quick Fox");
    supervisor.shutdown().await;
    Ok(())
}
