//! What a bundle does not reach.

use std::os::unix::net::{UnixDatagram, UnixListener};

use menagerie_tests::Language;

use super::{load, spy, strict, tried, workers};
use crate::support::{Bundle, config, run, run_with, start_with};

#[test]
fn p2_a_bundle_reads_and_writes_nothing_but_its_own() {
    run_with(strict(), |supervisor| async move {
        let outside = tempfile::tempdir().unwrap();
        let file = outside.path().join("secret");
        std::fs::write(&file, "secret").unwrap();
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        for own in ["own", "stream", "own_limits"] {
            assert!(!tried(&spy, own).await.starts_with('E'), "{own}");
        }
        assert_eq!(tried(&spy, "temporary").await, "in its scratch folder");
        assert_eq!(tried(&spy, "make mine").await, "made");
        assert_eq!(tried(&spy, "remove mine").await, "None");
        let [file, folder] = [&file, outside.path()].map(|path| path.display().to_string());
        for what in ["read", "append", "truncate", "in_thread", "in_child", "remove"] {
            assert_eq!(tried(&spy, &format!("{what} {file}")).await, "EACCES", "{what}");
        }
        assert_eq!(tried(&spy, &format!("make {folder}/new")).await, "EACCES");
        assert_eq!(tried(&spy, &format!("list {folder}")).await, "EACCES");
        // By a link of its own neither.
        assert_eq!(tried(&spy, &format!("link {file} here")).await, "linked");
        assert_eq!(tried(&spy, "read here").await, "EACCES");
        // Nor does it change its own code, its runtime's, or its rights.
        let code = bundle.path().join("main.py").display().to_string();
        for what in ["append", "truncate"] {
            assert_eq!(tried(&spy, &format!("{what} {code}")).await, "EACCES", "{what}");
        }
        for what in ["chmod", "touch", "lease"] {
            assert_eq!(tried(&spy, &format!("{what} {code}")).await, "EPERM", "{what}");
        }
        // Flags, and ext4's version and policy of a key.
        for command in ["40086602", "40086604", "800c6613"] {
            let outcome = tried(&spy, &format!("attributes {code} {command}")).await;
            assert_eq!(outcome, "EPERM", "{command}");
        }
        assert_eq!(std::fs::read_to_string(outside.path().join("secret")).unwrap(), "secret");
        let status = supervisor.status();
        assert!(status.bundles[0].not_granted.is_empty());
    });
}

#[test]
fn p2_a_bundle_reaches_no_other_process() {
    run_with(strict(), |supervisor| async move {
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        // The host's, which is this one.
        for what in ["signal SIGTERM", "signal SIGKILL", "lower", "pin", "nice"] {
            assert_eq!(tried(&spy, what).await, "EPERM", "{what}");
        }
        let host = std::process::id();
        for what in ["environ", "mem", "fd/0"] {
            let outcome = tried(&spy, &format!("read /proc/{host}/{what}")).await;
            assert_eq!(outcome, "EACCES", "{what}");
        }
        // Nor is there a socket by which others would act for it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(tried(&spy, &format!("connect {}", path.display())).await, "EPERM");
        for what in ["internet", "raw", "tcp 1"] {
            assert_eq!(tried(&spy, what).await, "EPERM", "{what}");
        }
        // Datagrams go wherever they are told to, and raw ones are the same; other families
        // have pairs of their own.
        let raw = (libc::AF_UNIX, libc::SOCK_RAW);
        let tipc = (libc::AF_TIPC, libc::SOCK_RDM);
        for (family, kind) in [(libc::AF_UNIX, libc::SOCK_DGRAM), raw, tipc] {
            let what = format!("pair {family} {kind}");
            assert_eq!(tried(&spy, &what).await, "EPERM", "{what}");
        }
        assert_eq!(tried(&spy, &format!("pair 1 {}", libc::SOCK_SEQPACKET)).await, "a pair");
    });
}

/// What the supervisor hands to a worker is no way out either.
#[test]
fn p2_no_socket_of_a_worker_reaches_another_program() {
    run_with(strict(), |supervisor| async move {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let other = UnixDatagram::bind(&path).unwrap();
        other.set_nonblocking(true).unwrap();
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        // Each of them is a connected stream.
        let outcome = tried(&spy, &format!("by_own_sockets {}", path.display())).await;
        assert_eq!(outcome, "EISCONN");
        assert!(other.recv(&mut [0]).is_err(), "something has come");
    });
}

/// Limits, priorities and signals that are not the worker's alone.
#[test]
fn p2_a_bundle_changes_only_its_own_priority_and_not_how_it_ends() {
    /// `linux/ioprio.h`.
    const PROCESS: u8 = 1;
    const GROUP: u8 = 2;
    const USER: u8 = 3;
    run_with(strict(), |supervisor| async move {
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        let set = async |which: u8| {
            tried(&spy, &format!("call {} {which} 0 0", libc::SYS_ioprio_set)).await
        };
        assert_eq!(set(GROUP).await, "EPERM");
        assert_eq!(set(USER).await, "EPERM");
        assert_eq!(set(PROCESS).await, "0");
        // It would live on when its host is killed.
        let signal = format!("call {} {} 0", libc::SYS_prctl, libc::PR_SET_PDEATHSIG);
        assert_eq!(tried(&spy, &signal).await, "EPERM");
    });
}

/// Extended attributes are no part of what Landlock holds: of any file's nothing is told, as
/// on a file system that has none.
#[test]
fn p2_a_bundle_reads_no_extended_attributes_by_path() {
    /// The same everywhere (Linux 6.13).
    const GETXATTRAT: i64 = 464;
    const LISTXATTRAT: i64 = 465;
    run_with(strict(), |supervisor| async move {
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        assert_eq!(tried(&spy, "xattrs /etc/hostname").await, "ENOTSUP");
        let calls = [
            libc::SYS_getxattr,
            libc::SYS_lgetxattr,
            libc::SYS_listxattr,
            libc::SYS_llistxattr,
            GETXATTRAT,
            LISTXATTRAT,
        ];
        for call in calls {
            assert_eq!(tried(&spy, &format!("call {call}")).await, "ENOTSUP", "{call}");
        }
    });
}

#[test]
fn p2_a_bundle_executes_no_program() {
    // The same everywhere (Linux 6.15, 6.17).
    const SYS_OPEN_TREE_ATTR: i64 = 467;
    const SYS_FILE_SETATTR: i64 = 469;
    run_with(strict(), |supervisor| async move {
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        // Nor a process that would be the host's child.
        let clones = ["namespace", "sibling"].map(|way| format!("{way} {}", libc::SYS_clone));
        for what in ["execute /bin/true", "from_memory", &clones[0], &clones[1]] {
            assert_eq!(tried(&spy, what).await, "EPERM", "{what}");
        }
        // On a kernel that knew them this host's bundles would not.
        assert_eq!(tried(&spy, &format!("call {}", libc::SYS_clone3)).await, "ENOSYS");
        assert_eq!(tried(&spy, &format!("call {}", libc::SYS_io_uring_setup)).await, "ENOSYS");
        let refused = [
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_unshare,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_keyctl,
            libc::SYS_shmget,
            libc::SYS_mq_open,
            libc::SYS_open_by_handle_at,
            libc::SYS_setxattr,
            libc::SYS_reboot,
            libc::SYS_perf_event_open,
            SYS_OPEN_TREE_ATTR,
            SYS_FILE_SETATTR,
        ];
        for call in refused {
            assert_eq!(tried(&spy, &format!("call {call}")).await, "EPERM", "{call}");
        }
    });
}

/// Lua's own library: another language, and another way in.
#[test]
fn p2_a_lua_bundle_reaches_nothing_but_its_own() {
    run_with(strict(), |supervisor| async move {
        let manifest = "name = 'spy'\nloader = 'lua'\nfile = 'main.lua'\nprovides = ['spy@1']\n";
        let main = "local function open(path, mode)\n\
              local file, problem = io.open(path, mode)\n\
              return file and 'opened' or problem\n\
            end\n\
            return { ['spy@1'] = {\n\
              attempt = function(what)\n\
                if what == 'read' then return open('/etc/hostname', 'r') end\n\
                if what == 'write' then return open('/tmp/menagerie-hostile', 'w') end\n\
                if what == 'own' then return open('mine', 'w') end\n\
                if what == 'remove' then return select(2, os.remove('/etc/hostname')) end\n\
                local pipe = io.popen('echo executed')\n\
                return pipe and pipe:read('*a') or 'nothing'\n\
              end,\n\
            } }\n";
        let bundle = Bundle::of(&[("manifest.toml", manifest), ("main.lua", main)]);
        let spy = load(&supervisor, &bundle).await;
        assert!(tried(&spy, "read").await.contains("Permission denied"));
        assert!(tried(&spy, "write").await.contains("Permission denied"));
        assert_eq!(tried(&spy, "own").await, "opened");
        assert!(tried(&spy, "remove").await.contains("Permission denied"));
        assert!(!tried(&spy, "execute").await.contains("executed"));
    });
}

/// What the configuration says for one bundle holds for it alone.
#[test]
fn p2_a_single_bundle_is_in_the_sandbox_or_out_of_it() {
    run(async {
        let mut config = config();
        let names = ["greeter-lua", "probe-lua"];
        config.bundle_sandbox.insert(names[1].to_owned(), menagerie_supervisor::Sandbox::Strict);
        config.standby = 1;
        let supervisor = start_with(config);
        for kind in ["greeter", "probe"] {
            supervisor.load(Language::of("lua").bundle(kind)).await.unwrap();
        }
        let found: Vec<_> =
            workers(&supervisor).into_iter().map(|w| (w.name, w.sandbox.is_some())).collect();
        assert_eq!(found, [("lua".to_owned(), false), ("lua/probe-lua".to_owned(), true)]);
        // No standby takes over from it: that is in no sandbox.
        let standby = crate::support::wait_for("the standby", || {
            supervisor.status().standbys.first().map(|standby| standby.pid)
        })
        .await;
        crate::support::slay(workers(&supervisor)[1].pid.unwrap());
        let probe = supervisor.contract("probe-lua/probe@1").unwrap();
        crate::support::wait_for("the next process", || {
            (workers(&supervisor)[1].restarts == 1).then_some(())
        })
        .await;
        let next: i64 = probe.call("inc", (1,)).await.unwrap();
        assert_eq!(next, 2);
        let worker = &workers(&supervisor)[1];
        assert!(worker.sandbox.is_some() && worker.pid != Some(standby));
        assert!(super::is_filtered(worker.pid.unwrap()));
        supervisor.shutdown().await;
    });
}

/// What the others are refused can be done where there is no sandbox: they are refused for
/// no other reason.
#[test]
fn p1_without_a_sandbox_a_bundle_has_its_users_rights() {
    run_with(config(), |supervisor| async move {
        let outside = tempfile::tempdir().unwrap();
        let path = |name: &str| outside.path().join(name).display().to_string();
        std::fs::write(path("file"), "x").unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        let bundle = spy("");
        let spy = load(&supervisor, &bundle).await;
        let code = bundle.path().join("main.py").display().to_string();
        let [file, new, socket] = ["file", "new", "socket"].map(path);
        for (what, outcome) in [
            (format!("read {file}"), "read"),
            (format!("append {file}"), "written"),
            (format!("list {}", outside.path().display()), "listed"),
            (format!("make {new}"), "made"),
            (format!("remove {new}"), "None"),
            (format!("lease {code}"), "leased"),
            (format!("chmod {code}"), "None"),
            (format!("touch {code}"), "None"),
            (format!("connect {socket}"), "connected"),
            (format!("read /proc/{}/environ", std::process::id()), "read"),
            (format!("pair {} {}", libc::AF_UNIX, libc::SOCK_DGRAM), "a pair"),
            (format!("pair {} {}", libc::AF_UNIX, libc::SOCK_RAW), "a pair"),
            (format!("xattrs {code}"), "[]"),
            // What it is already.
            (format!("call {} {} 9", libc::SYS_prctl, libc::PR_SET_PDEATHSIG), "0"),
            ("internet".to_owned(), "sockets"),
            ("execute /bin/true".to_owned(), "executed"),
            ("signal SIGCONT".to_owned(), "None"),
        ] {
            let done = tried(&spy, &what).await;
            assert_eq!(done, outcome, "{what}");
        }
        assert!(workers(&supervisor)[0].sandbox.is_none());
    });
}
