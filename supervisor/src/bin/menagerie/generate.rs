//! Shell completions and man pages, made from the command line's own
//! description.

use std::path::Path;

use clap::CommandFactory;

use crate::args::Args;
use crate::client::CommandError;

/// A shell's completions.
pub(crate) fn completions(shell: clap_complete::Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "menagerie", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One page for the program and one for each command.
pub(crate) fn man(dir: &Path) -> Result<(), CommandError> {
    let failed =
        |error: std::io::Error| CommandError::Failed(format!("{}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(Args::command(), dir).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g_every_shell_has_completions() {
        use clap_complete::Shell::{Bash, Elvish, Fish, PowerShell, Zsh};
        for shell in [Bash, Elvish, Fish, PowerShell, Zsh] {
            let text = completions(shell);
            assert!(text.contains("reload") && text.contains("socket"), "{shell}");
        }
    }

    #[test]
    fn g_every_command_has_a_man_page() {
        let dir = tempfile::tempdir().unwrap();
        man(dir.path()).unwrap();
        for command in Args::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let page = dir.path().join(format!("menagerie-{}.1", command.get_name()));
            assert!(page.exists(), "{}", page.display());
        }
        assert!(dir.path().join("menagerie.1").exists());
    }
}
