//! What `/proc` says of a process or a thread (proc_pid_stat(5)).

use std::path::Path;

/// A line of `/proc/<pid>/stat`, or of `/proc/<pid>/task/<tid>/stat`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stat {
    /// At most 15 bytes; what is no UTF-8 in it is replaced.
    pub(crate) name: String,
    /// A letter: `R` runs, `S` sleeps, `T` was stopped, and others.
    pub(crate) state: char,
    /// The process that started it, or that has it now.
    pub(crate) parent: u32,
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
    /// Whether it has begun to end; a process has when all of its threads have.
    pub(crate) is_exiting: bool,
}

/// `PF_EXITING` among a thread's flags (the kernel's `include/linux/sched.h`).
const EXITING: u64 = 4;

impl Stat {
    /// Of a process; `None` if it has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    /// Of each thread of a process; none if it has ended.
    pub(crate) fn of_threads(pid: u32) -> Vec<Self> {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
        tasks.filter_map(|task| Self::read(&task.ok()?.path())).collect()
    }

    fn read(folder: &Path) -> Option<Self> {
        // A thread's name is any bytes that its process likes.
        let line = std::fs::read(folder.join("stat")).ok()?;
        let line = String::from_utf8_lossy(&line);
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
        Self::parse(&line, u64::try_from(page).ok()?, u64::try_from(ticks).ok()?)
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds for people and comparisons")]
    fn parse(line: &str, page: u64, ticks: u64) -> Option<Self> {
        // The name, in parentheses, may itself hold spaces and parentheses.
        let (open, close) = (line.find('(')?, line.rfind(')')?);
        let fields: Vec<&str> = line[close + 1..].split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            name: line[open + 1..close].to_owned(),
            state: fields.first()?.chars().next()?,
            parent: u32::try_from(number(4)?).ok()?,
            cpu_seconds: (number(14)? + number(15)?) as f64 / ticks as f64,
            rss_bytes: number(24)? * page,
            is_exiting: number(9)? & EXITING != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_this_process_is_read() {
        let stat = Stat::of(std::process::id()).unwrap();
        assert!(stat.rss_bytes > 100_000, "{stat:?}");
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
    }

    #[test]
    fn stat_of_each_thread_is_read() {
        let named = std::thread::Builder::new().name("stat-test".to_owned());
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = named.spawn(move || ends.recv()).unwrap();
        let threads = Stat::of_threads(std::process::id());
        assert!(threads.len() > 1 && threads.iter().all(|stat| !stat.is_exiting), "{threads:?}");
        drop(end);
        thread.join().unwrap().unwrap_err();
        assert_eq!(Stat::of_threads(u32::MAX), []);
    }

    #[test]
    fn s2_a_thread_whose_name_is_no_text_is_read() {
        let (say, said) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            nix::sys::prctl::set_name(c"\xffnameless").unwrap();
            say.send(nix::unistd::gettid()).unwrap();
            ends.recv()
        });
        let thread_id = said.recv().unwrap();
        let folder = format!("/proc/self/task/{thread_id}");
        let stat = Stat::read(Path::new(&folder)).unwrap();
        assert_eq!(stat.name, "\u{fffd}nameless");
        assert!(Stat::of_threads(std::process::id()).iter().any(|one| one.name == stat.name));
        drop(end);
        thread.join().unwrap().unwrap_err();
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "this is no worker")]
    fn stat_of_what_has_ended_says_so() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while Stat::of(child.id()).unwrap().state != 'Z' {
            std::thread::yield_now();
        }
        assert!(Stat::of(child.id()).unwrap().is_exiting);
        child.wait().unwrap();
    }

    #[test]
    fn stat_with_an_odd_name_is_read() {
        let line =
            "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 5 1000 25 18446744073709551615";
        let stat = Stat::parse(line, 4096, 100).unwrap();
        let expected = Stat {
            name: "a) b".to_owned(),
            state: 'S',
            parent: 1,
            cpu_seconds: 2.0,
            rss_bytes: 25 * 4096,
            is_exiting: false,
        };
        assert_eq!(stat, expected);
    }
}
