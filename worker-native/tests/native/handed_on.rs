use std::fs::{File, Permissions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use menagerie_protocol::LoaderError;
use menagerie_protocol::loader::PrivateCopy;
use menagerie_protocol::testing::TestBundle;

use crate::support::{Folder, harness};

/// A library whose `count` counts its calls, from a number that is compiled in.
const COUNTING: &str = r#"
#include <menagerie.h>
static int64_t counted = FIRST;
static int count(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, counted++);
}
int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "counting@1", "count", "", count, NULL);
}
"#;

fn counting(name: &str, flags: &[&str]) -> Folder {
    let folder = Folder::new(name, r#"["counting@1"]"#);
    folder.compile(COUNTING, flags);
    folder
}

fn count(bundle: &TestBundle) -> i64 {
    bundle.call("counting@1", "count", ()).unwrap()
}

/// What a supervisor would hand on.
fn copy_of(folder: &Folder) -> File {
    let (copy, _) = PrivateCopy::of(&folder.library()).unwrap().unwrap();
    copy.file().try_clone().unwrap()
}

fn shared(copy: &File) -> Option<OwnedFd> {
    Some(copy.try_clone().unwrap().into())
}

/// The inodes that the library is mapped from.
fn inodes(folder: &Folder) -> Vec<u64> {
    let inode = |line: &String| line.split_ascii_whitespace().nth(4).unwrap().parse().unwrap();
    let mut inodes: Vec<u64> = folder.maps().iter().map(inode).collect();
    inodes.sort_unstable();
    inodes.dedup();
    inodes
}

#[test]
fn s4_the_copy_that_is_handed_on_is_mapped() {
    let harness = harness();
    let folder = counting("handed_on", &["-DFIRST=100"]);
    let copy = copy_of(&folder);
    harness.hand_on(shared(&copy));
    let bundle = folder.load(&harness);
    assert_eq!(inodes(&folder), [copy.metadata().unwrap().ino()]);
    assert_eq!(count(&bundle), 100);
    bundle.unload();
    // It is free again, and what was written to its memory is not in it.
    let bundle = folder.load(&harness);
    assert_eq!(inodes(&folder), [copy.metadata().unwrap().ino()]);
    assert_eq!(count(&bundle), 100);
    bundle.unload();
    assert_eq!(inodes(&folder), []);
    // Which file it was copied from is the supervisor's business.
    folder.compile(COUNTING, &["-DFIRST=200"]);
    assert_eq!(count(&folder.load(&harness)), 100);
    harness.hand_on(None);
    assert_eq!(count(&folder.load(&harness)), 200);
    assert_eq!(harness.logs(), []);
}

#[test]
fn l6_state_is_fresh_though_the_same_copy_is_handed_on() {
    let harness = harness();
    let folder = counting("the_same_copy", &["-DFIRST=100"]);
    harness.hand_on(shared(&copy_of(&folder)));
    let (first, second) = (folder.load(&harness), folder.load(&harness));
    for _ in 0..3 {
        assert_eq!([count(&first), count(&first), count(&second)], [100, 101, 100]);
        first.reload().unwrap();
        assert_eq!([count(&first), count(&second)], [100, 101]);
        first.reload().unwrap();
        second.reload().unwrap();
        assert_eq!(inodes(&folder).len(), 2, "each has one of its own");
    }
    first.unload();
    second.unload();
    assert_eq!(inodes(&folder), []);
}

#[test]
fn l8_a_copy_that_stays_mapped_is_not_mapped_again() {
    let harness = harness();
    let folder = counting("copy_stays_mapped", &["-DFIRST=100", "-Wl,-z,nodelete"]);
    harness.hand_on(shared(&copy_of(&folder)));
    let bundle = folder.load(&harness);
    assert_eq!([count(&bundle), count(&bundle)], [100, 101]);
    bundle.unload();
    harness.wait_for_log(|record| record.message.contains("stays mapped"));
    assert_eq!(inodes(&folder).len(), 1);
    for others in 2..4 {
        let bundle = folder.load(&harness);
        assert_eq!(count(&bundle), 100);
        bundle.unload();
        assert_eq!(inodes(&folder).len(), others);
    }
}

#[test]
fn l9_descriptors_are_flat_though_copies_are_handed_on() {
    let harness = harness();
    let folder = counting("flat_copies", &["-DFIRST=1"]);
    harness.hand_on(shared(&copy_of(&folder)));
    let rounds = |count: u32| {
        for _ in 0..count {
            let bundle = folder.load(&harness);
            bundle.reload().unwrap();
            bundle.unload();
        }
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    };
    let before = rounds(3);
    assert_eq!(rounds(50), before);
    assert_eq!(folder.maps(), [""; 0]);
}

#[test]
fn l5_what_is_handed_on_is_checked() {
    let harness = harness();
    let folder = counting("checked_copy", &["-DFIRST=100"]);
    let whole = std::fs::read(folder.library()).unwrap();
    let problem = |copy: OwnedFd| {
        harness.hand_on(Some(copy));
        let error = folder.load_fails(&harness);
        let LoaderError::ArtifactUnusable { artifact, problem } = error else {
            panic!("{error:?}")
        };
        assert_eq!(artifact, folder.library().canonicalize().unwrap());
        problem
    };
    // Whoever else has it could write to what is mapped.
    let open = File::open(folder.library()).unwrap();
    assert!(problem(open.into()).contains("no sealed copy"));
    std::fs::write(folder.library(), &whole[..whole.len() / 2]).unwrap();
    assert!(problem(copy_of(&folder).into()).contains("cut short"));
    std::fs::write(folder.library(), "#!/bin/sh\n").unwrap();
    assert!(problem(copy_of(&folder).into()).contains("script"));
    std::fs::write(folder.library(), &whole).unwrap();
    harness.hand_on(Some(copy_of(&folder).into()));
    assert_eq!(count(&folder.load(&harness)), 100);
}

/// One process that shares the copy takes the others' right to open it: they
/// make one themselves.
#[test]
fn s4_a_copy_that_cannot_be_opened_is_made_anew() {
    let harness = harness();
    let folder = counting("forbidden_copy", &["-DFIRST=100"]);
    let copy = copy_of(&folder);
    copy.set_permissions(Permissions::from_mode(0o0)).unwrap();
    harness.hand_on(shared(&copy));
    let bundle = folder.load(&harness);
    assert_eq!(count(&bundle), 100);
    // Root opens everything.
    let opens = File::open(format!("/proc/self/fd/{}", copy.as_raw_fd())).is_ok();
    assert_eq!(inodes(&folder) == [copy.metadata().unwrap().ino()], opens);
}

/// What a guest may try with the file that its library is mapped from: each way
/// that works is a bit of the answer.
const INTRUDER: &str = r#"
#define _GNU_SOURCE
#include <menagerie.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int opened(int flags) {
    Dl_info found;
    if (!dladdr((void *)(uintptr_t)&opened, &found)) return -1;
    return open(found.dli_fname, flags);
}

static int writable(int fd, int flags) {
    void *at = mmap(NULL, 4096, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (at == MAP_FAILED) return 0;
    *(volatile char *)at = 'x';
    munmap(at, 4096);
    return 1;
}

static int made_writable(int fd) {
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return 0;
    int made = mprotect(at, 4096, PROT_READ | PROT_WRITE) == 0;
    if (made) *(volatile char *)at = 'x';
    munmap(at, 4096);
    return made;
}

static int through_memory(int fd) {
    void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return 0;
    int memory = open("/proc/self/mem", O_RDWR);
    int written = memory >= 0 && pwrite(memory, "x", 1, (off_t)(uintptr_t)at) == 1;
    close(memory);
    munmap(at, 4096);
    return written;
}

static int intrude(mg_call *call, void *userdata) {
    (void)userdata;
    int64_t done = 0;
    int read_write = opened(O_RDWR), again = opened(O_RDONLY);
    if (again < 0) return mg_fail(call, "NoFile", "the library's file cannot be opened");
    Dl_info found;
    dladdr((void *)(uintptr_t)&intrude, &found);
    int first = atoi(strrchr(found.dli_fname, '/') + 1);
    int fds[] = {read_write, first};
    for (int i = 0; i < 2; i++) {
        int fd = fds[i];
        if (fd < 0) continue;
        done |= (pwrite(fd, "x", 1, 0) == 1) << 0;
        done |= (ftruncate(fd, 0) == 0) << 1;
        done |= (ftruncate(fd, 1 << 20) == 0) << 2;
        done |= (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0) << 3;
        done |= (fallocate(fd, 0, 0, 1 << 24) == 0) << 4;
        done |= writable(fd, MAP_SHARED) << 5;
        done |= made_writable(fd) << 6;
        done |= through_memory(fd) << 7;
        done |= (fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE) == 0) << 8;
        lseek(fd, 100, SEEK_SET);
    }
    done |= (opened(O_WRONLY | O_TRUNC) >= 0 && lseek(again, 0, SEEK_END) == 0) << 9;
    /* What is written to its own memory stays there. */
    if (!writable(again, MAP_PRIVATE)) return mg_fail(call, "NoMemory", "it has none of its own");
    return mg_return_i64(call, done);
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    return mg_add_function(registrar, "intruder@1", "intrude", "", intrude, NULL);
}
"#;

#[test]
fn s4_no_guest_can_write_to_the_copy_that_others_map() {
    let harness = harness();
    let folder = Folder::c("intruder", r#"["intruder@1"]"#, INTRUDER);
    let whole = std::fs::read(folder.library()).unwrap();
    let copy = copy_of(&folder);
    // The one that the supervisor makes, and the worker's own.
    for handed_on in [shared(&copy), None] {
        harness.hand_on(handed_on);
        let bundle = folder.load(&harness);
        let done: i64 = bundle.call("intruder@1", "intrude", ()).unwrap();
        assert_eq!(done, 0, "{done:#b}");
        let handed_on = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert_eq!(std::fs::read(handed_on).unwrap(), whole);
        bundle.unload();
        assert_eq!(std::fs::read(folder.library()).unwrap(), whole);
    }
    // And whoever is given it next can still load it.
    harness.hand_on(shared(&copy));
    let bundle = folder.load(&harness);
    assert_eq!(inodes(&folder), [copy.metadata().unwrap().ino()]);
    assert_eq!(bundle.call::<_, i64>("intruder@1", "intrude", ()), Ok(0));
}
