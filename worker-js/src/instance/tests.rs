use std::time::Instant;

use menagerie_protocol::testing::Harness;
use menagerie_protocol::{
    BundleLoader, BundleSource, LoaderError, ManifestData, Runtime, SupportedLanguage,
};

use super::*;
use crate::JsLoader;

/// Calls a function again and again as a lane would, without the lane.
struct Measuring(JsLoader);

impl BundleLoader for Measuring {
    fn loader_name(&self) -> &'static str {
        "js"
    }

    fn loader_language(&self) -> SupportedLanguage {
        SupportedLanguage::JavaScript
    }

    fn supports_hot_reload(&self) -> bool {
        false
    }

    fn load(
        &self,
        manifest: &ManifestData,
        source: &BundleSource,
        runtime: &Runtime,
    ) -> Result<(), LoaderError> {
        let mut instance = self.0.build(manifest, source, runtime)?;
        let calls: [&[u8]; 6] = [b"\x90", b"\x91\x01", b"\x91\xa3Ada", b"\x90", b"\x90", b"\x90"];
        for (index, args) in calls.into_iter().enumerate() {
            let name = instance.functions[index].name.clone();
            let mut best = f64::MAX;
            for _ in 0..20 {
                let began = Instant::now();
                for _ in 0..10_000 {
                    instance.call_in_process(index, args);
                }
                best = best.min(began.elapsed().as_secs_f64() / 10_000.0);
            }
            println!("{name}: {:.0} ns a call", best * 1e9);
        }
        runtime.install(Box::new(instance));
        Ok(())
    }

    fn reload(&self, _manifest: &ManifestData, _runtime: &Runtime) -> Result<(), LoaderError> {
        unreachable!("it supports no reload")
    }
}

impl JsInstance {
    /// All that [`Instance::call`] does but the reply.
    fn call_in_process(&mut self, function: usize, args: &[u8]) {
        self.gate.enter_call();
        {
            enter!(scope, self.engine);
            let mut lent = Lent::default();
            let args = Args { bytes: args, segment: None };
            let outcome = invoke(scope, &self.gate, &self.functions[function], args, &mut lent);
            scope.perform_microtask_checkpoint();
            let Outcome::Value(value) = settled(scope, outcome) else { panic!() };
            v8::tc_scope!(let tc, scope);
            let mut encoded =
                Encoded::within(&self.lane, 1 << 20, std::mem::take(&mut self.buffers));
            encoded.push(tc, value).and_then(|()| encoded.with_parts(tc, |_| ())).unwrap();
            self.buffers = encoded.into_buffers(tc);
            lent.give_back(tc);
            self.lane.tell_rejections(tc, &self.gate);
        }
        assert!(!self.gate.leave());
    }
}

#[test]
#[ignore = "a measurement: run it alone, with --release --nocapture"]
fn measure_a_call_in_process() {
    let harness = Harness::new(Measuring(JsLoader::new()));
    let manifest = "name = \"m\"\nversion = \"1.0.0\"\nloader = \"js\"\nprovides = [\"m@1\"]\n";
    let code = "export default { 'm@1': { null: () => null, inc: (n) => n + 1, greet: (n) => `Hello, ${n}`,
        record: () => ({ id: 1, name: 'Ada', tags: ['one', 'two'] }),
        copied: () => new Uint8Array(4095), spliced: () => new Uint8Array(4096) } };";
    harness.load(manifest, BundleSource::Code(code.to_owned())).unwrap();
}
