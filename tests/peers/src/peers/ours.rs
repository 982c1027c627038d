//! Menagerie: `call_blocking` into the probe bundle in Rust, as `menagerie
//! bench` calls it.

use std::path::Path;

use menagerie_supervisor::{ByteBuf, Bytes, Config, Contract, Supervisor};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::Peer;
use crate::Outcome;

const LIBRARY: &str = "libprobe_rust.so";
const MANIFEST: &str = "name = \"probe-rust\"\nversion = \"1.0.0\"\nloader = \"native\"\n\
                        file = \"libprobe_rust.so\"\nprovides = [\"probe@1\"]\n";

pub(crate) struct Ours {
    contract: Contract,
    supervisor: Supervisor,
    runtime: Runtime,
    _dir: TempDir,
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.runtime.block_on(self.supervisor.shutdown());
    }
}

impl Ours {
    pub(crate) fn start(worker_dir: &Path, bundles: &Path) -> Outcome<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::copy(bundles.join("probe-rust").join(LIBRARY), dir.path().join(LIBRARY))?;
        std::fs::write(dir.path().join("manifest.toml"), MANIFEST)?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut config = Config::default();
        config.worker_dir = Some(worker_dir.to_owned());
        let supervisor = {
            let _guard = runtime.enter();
            Supervisor::builder().config(config).start()?
        };
        runtime.block_on(supervisor.load(dir.path()))?;
        let contract = supervisor.contract("probe@1")?;
        Ok(Self { contract, supervisor, runtime, _dir: dir })
    }
}

impl Peer for Ours {
    fn null(&mut self) -> Outcome<()> {
        Ok(self.contract.call_blocking::<_, ()>("null", ())?)
    }

    fn echo(&mut self, data: &[u8]) -> Outcome<usize> {
        let back: ByteBuf = self.contract.call_blocking("echo", (Bytes::new(data),))?;
        Ok(back.len())
    }
}
