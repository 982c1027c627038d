//! What `/proc` says of a process (proc_pid_stat(5)).

/// A process's use of memory and processor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Usage {
    pub(crate) rss_bytes: u64,
    pub(crate) cpu_seconds: f64,
}

/// Reads it; `None` if the process has ended.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    parse(&stat, u64::try_from(page).ok()?, u64::try_from(ticks).ok()?)
}

/// The process that started it, or that has it now; `None` if it has ended.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[allow(clippy::cast_precision_loss, reason = "seconds for people")]
fn parse(stat: &str, page: u64, ticks: u64) -> Option<Usage> {
    // The name, in parentheses, may itself hold spaces and parentheses.
    let after_name = &stat[stat.rfind(')')? + 1..];
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let cpu = number(14)? + number(15)?;
    Some(Usage { rss_bytes: number(24)? * page, cpu_seconds: cpu as f64 / ticks as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_this_process_is_read() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000, "{usage:?}");
        assert_eq!(parent(std::process::id()), Some(std::os::unix::process::parent_id()));
    }

    #[test]
    fn stat_with_an_odd_name_is_read() {
        let line =
            "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 5 1000 25 18446744073709551615";
        let usage = parse(line, 4096, 100).unwrap();
        assert_eq!(usage, Usage { rss_bytes: 25 * 4096, cpu_seconds: 2.0 });
    }
}
