//! Threads that wait for the same thing on different CPUs.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// One side of the CPUs that a thread may use. Of two threads that wait on different
/// sides one is not woken on the CPU of a process that dies. The kernel leaves a thread
/// there if no other CPU is idle just then, and a process in the kernel, which gives its
/// memory back, is not interrupted for it (unless the kernel runs with `preempt=full`:
/// its `admin-guide/kernel-parameters.rst`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Side {
    all: CpuSet,
    own: CpuSet,
}

impl Side {
    /// Two sides, which share no CPU; one, if there is one CPU, or nobody can tell.
    pub(super) fn all() -> Vec<Self> {
        let all = sched_getaffinity(SELF).unwrap_or_default();
        let is_allowed = |cpu: &usize| all.is_set(*cpu).unwrap_or(false);
        let mut sides = [CpuSet::new(); 2];
        for (at, cpu) in (0..CpuSet::count()).filter(is_allowed).enumerate() {
            // It is a number of the set.
            let _ = sides[at % 2].set(cpu);
        }
        let [_, second] = &sides;
        let one = *second == CpuSet::new();
        if one {
            return vec![Self { all, own: all }];
        }
        sides.into_iter().map(|own| Self { all, own }).collect()
    }

    /// Keeps this thread on it. Where that does not work it is no harm.
    pub(super) fn enter(&self) {
        let _ = sched_setaffinity(SELF, &self.own);
    }

    /// Lets this thread, and what it starts, use all of them again, unless somebody has
    /// said meanwhile which ones.
    pub(super) fn leave(&self) {
        if sched_getaffinity(SELF).is_ok_and(|now| now == self.own) {
            let _ = sched_setaffinity(SELF, &self.all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    fn now() -> CpuSet {
        sched_getaffinity(SELF).unwrap()
    }

    fn cpus(set: &CpuSet) -> Vec<usize> {
        (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap()).collect()
    }

    #[test]
    fn sides_share_no_cpu_and_are_all_of_them() {
        let sides = Side::all();
        let mut together: Vec<usize> = sides.iter().flat_map(|side| cpus(&side.own)).collect();
        together.sort_unstable();
        assert_eq!(together, cpus(&now()));
        assert_eq!(sides.len(), together.len().min(2));
    }

    #[test]
    fn sides_are_left_again() {
        in_thread(|| {
            let before = now();
            for side in Side::all() {
                side.enter();
                assert_eq!(now(), side.own);
                side.leave();
                assert_eq!(now(), before);
            }
        });
    }

    #[test]
    fn sides_of_one_cpu_are_one() {
        in_thread(|| {
            let mut first = CpuSet::new();
            first.set(cpus(&now())[0]).unwrap();
            sched_setaffinity(SELF, &first).unwrap();
            assert_eq!(Side::all().len(), 1);
        });
    }

    #[test]
    fn sides_that_somebody_has_changed_stay_as_they_are() {
        in_thread(|| {
            let sides = Side::all();
            let [side, other] = &sides[..] else { return };
            side.enter();
            sched_setaffinity(SELF, &other.own).unwrap();
            side.leave();
            assert_eq!(now(), other.own);
        });
    }
}
