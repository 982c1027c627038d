//! `menagerie check`: whether a bundle is as it should be, found out by doing
//! with it what a supervisor does.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use menagerie_protocol::loader::manifest::{ContractDependency, DependencyKind, MANIFEST_FILE};
use menagerie_protocol::loader::read_small_file;
use menagerie_protocol::{ManifestData, RuntimeError};
use menagerie_supervisor::{
    BundleStatus, ConfigFile, ContractStatus, CrashReport, EventKind, Events, NextEvent,
    SIGNATURE_FILE, SignatureConfig, SignaturePolicy, SignatureState, SignatureStatus,
    StatusSocket, Supervisor, WorkerState, check_values,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::Check;
use crate::client::{Client, CommandError};
use crate::ending::Ending;
use crate::render;
use crate::scratch::Scratch;
use crate::told;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    #[serde(serialize_with = "render::path")]
    pub(crate) dir: PathBuf,
    pub(crate) name: Option<String>,
    /// What is known of its signature, once its manifest could be read.
    pub(crate) signature: Option<SignatureStatus>,
    /// What would keep it from working.
    pub(crate) problems: Vec<String>,
    /// What its own error tells, if it could not be loaded for one.
    pub(crate) stack: Option<String>,
    /// What is odd, and does no harm.
    pub(crate) warnings: Vec<String>,
    /// What it provides, once it is loaded.
    pub(crate) contracts: Vec<ContractStatus>,
    /// The calls of `tests.json`, and what came of them.
    pub(crate) tests: Vec<TestOutcome>,
    /// The deaths of workers meanwhile.
    pub(crate) crashes: Vec<CrashReport>,
}

/// A call of `tests.json`.
#[derive(Debug, Serialize)]
pub(crate) struct TestOutcome {
    pub(crate) call: String,
    pub(crate) ok: bool,
    pub(crate) detail: Option<String>,
    /// What the bundle's own error tells, if that is what is wrong.
    pub(crate) stack: Option<String>,
    /// Whether its worker died of it.
    #[serde(skip)]
    died: bool,
}

impl Findings {
    pub(crate) fn is_sound(&self) -> bool {
        self.problems.is_empty() && self.tests.iter().all(|test| test.ok)
    }
}

/// The name of the file with calls and their results.
const TESTS: &str = "tests.json";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    contract: String,
    function: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    result: Value,
    /// Whether it shall fail by an error of its own, or for its arguments; then `result`
    /// says nothing.
    #[serde(default)]
    fails: bool,
}

/// Checks a bundle. What it has made for that goes with it, also when it is stopped.
pub(crate) async fn check(request: Check) -> Result<Findings, CommandError> {
    let mut ending = Ending::new().map_err(|error| CommandError::Failed(error.to_string()))?;
    tokio::select! {
        findings = look(request) => findings,
        name = ending.name() => {
            Err(CommandError::Failed(format!("{name}: the check was stopped before its end")))
        }
    }
}

async fn look(request: Check) -> Result<Findings, CommandError> {
    let failed = |error: &dyn std::fmt::Display| CommandError::Failed(error.to_string());
    // Whoever reads it may be in another folder.
    let dir = std::path::absolute(&request.dir).unwrap_or_else(|_| request.dir.clone());
    let mut findings = Findings { dir, ..Findings::default() };
    let parsed = match ManifestData::read(&request.dir) {
        Ok(parsed) => parsed,
        Err(error) => {
            findings.problems.push(error.to_string());
            return Ok(findings);
        }
    };
    findings.name = Some(parsed.manifest.name.clone());
    findings.warnings = parsed.warnings;
    let tests = match read_tests(&request.dir) {
        Ok(tests) => tests,
        Err(problem) => {
            findings.problems.push(problem);
            return Ok(findings);
        }
    };
    let mut settings = match &request.config {
        Some(file) => ConfigFile::read(file).map_err(|e| CommandError::Usage(e.to_string()))?,
        None => ConfigFile::default(),
    };
    settings.config.worker_dir = request.worker_dir.or(settings.config.worker_dir);
    settings.config.sandbox = request.sandbox.unwrap_or(settings.config.sandbox);
    examine_signature(&settings.config.signatures, &request.dir, &mut findings);
    // Code that is not what was signed is not run to see what it does.
    if !findings.problems.is_empty() {
        return Ok(findings);
    }
    // To look is not to trust: what is seen for the first time is forgotten.
    let scratch = Scratch::new("check")?;
    if let Some(store) = &mut settings.config.signatures.trust_store {
        *store = copy_of(store, &scratch)?;
    }
    let supervisor =
        Supervisor::builder().config(settings.config).start().map_err(|e| failed(&e))?;
    let mut events = supervisor.events();
    let with: Vec<PathBuf> =
        request.with.iter().flat_map(|path| all_but(path, &request.dir)).collect();
    take_host_as_given(&supervisor, &parsed.manifest, true, &mut findings);
    for dir in &with {
        if let Ok(parsed) = ManifestData::read(dir) {
            take_host_as_given(&supervisor, &parsed.manifest, false, &mut findings);
        }
    }
    for (path, outcome) in supervisor.load_all(&with).await {
        if let Err(error) = outcome {
            findings.problems.push(render::at(&path, &error));
        }
    }
    match supervisor.load(&request.dir).await {
        Ok(bundle) => look_at(&bundle, &parsed.manifest, &mut findings),
        Err(error) => {
            let lacks_another = matches!(
                error,
                RuntimeError::DependencyNotFound { .. }
                    | RuntimeError::UnsatisfiedCapability { kind: DependencyKind::Guest, .. }
            );
            let hint = if lacks_another { "; give its folder as --with DIR" } else { "" };
            findings.problems.push(format!("{error}{hint}"));
            findings.stack = told::of_error(&json!(error));
        }
    }
    if findings.problems.is_empty() && !tests.is_empty() {
        findings.tests = run_tests(&supervisor, tests, &scratch).await?;
    }
    if !findings.is_sound() {
        let died = findings.tests.iter().any(|test| test.died);
        findings.crashes = crashes(&mut events, usize::from(died)).await;
    }
    supervisor.shutdown().await;
    Ok(findings)
}

/// The folders of the bundles of a path, without one: a bundle that is to be checked may
/// lie among those that it needs. What cannot be read, the load says.
fn all_but(path: &Path, dir: &Path) -> Vec<PathBuf> {
    let is_it = |path: &Path| path.canonicalize().ok() == dir.canonicalize().ok();
    let has_manifest = |dir: &Path| dir.join(MANIFEST_FILE).symlink_metadata().is_ok();
    if is_it(path) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|entry| has_manifest(entry))
        .collect();
    if has_manifest(path) || found.is_empty() {
        return vec![path.to_owned()];
    }
    found.sort();
    found.retain(|dir| !is_it(dir));
    found
}

/// Nobody knows what a host's contracts do, but the host: that it has them is believed.
fn take_host_as_given(
    supervisor: &Supervisor,
    manifest: &ManifestData,
    warns: bool,
    findings: &mut Findings,
) {
    let of_host = |d: &&ContractDependency| d.kind == DependencyKind::Host;
    for dependency in manifest.dependencies.iter().filter(of_host) {
        let mut contract = dependency.contract.clone();
        contract.major.get_or_insert(1);
        let contract = contract.to_string();
        // A name that is none was refused with the manifest.
        drop(supervisor.host_contract(&contract).done());
        if warns {
            let text = "is the host's, and taken as given: it has no function here, so calls \
                        of it fail";
            findings.warnings.push(format!("{contract} {text}"));
        }
    }
}

/// The reports of the workers that have died so far, of which so many are known; one comes
/// when the last of its standard error has been read.
async fn crashes(events: &mut Events, known: usize) -> Vec<CrashReport> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let (mut deaths, mut reports) = (0, Vec::new());
    loop {
        let lacks = reports.len() < known.max(deaths);
        let wait = if lacks { PATIENCE } else { Duration::ZERO };
        match tokio::time::timeout(wait, events.next()).await {
            Ok(Some(NextEvent::Event(event))) => match event.kind {
                EventKind::WorkerState { state: WorkerState::Crashed, .. } => deaths += 1,
                EventKind::WorkerCrashed(report) => reports.push(*report),
                _ => {}
            },
            Ok(Some(NextEvent::Missed(_))) => {}
            Ok(None) | Err(_) => return reports,
        }
    }
}

/// Whether the signature holds; what is wrong about it weighs as much as the
/// policy says.
fn examine_signature(config: &SignatureConfig, dir: &Path, findings: &mut Findings) {
    let error = match config.examine(dir) {
        Ok(status) => {
            findings.signature = Some(status);
            return;
        }
        Err(error) => error,
    };
    findings.signature = SignatureStatus::of_error(&error);
    let state = findings.signature.as_ref().map(|status| status.state);
    match (config.policy, state) {
        (SignaturePolicy::Off, Some(SignatureState::Unsigned)) => {}
        // Links and the like are only wrong where there is a signature.
        (SignaturePolicy::Off, _) if dir.join(SIGNATURE_FILE).symlink_metadata().is_err() => {
            findings.signature = None;
        }
        (SignaturePolicy::Warn, Some(SignatureState::Unsigned | SignatureState::Untrusted)) => {
            findings.warnings.push(error.to_string());
        }
        _ => findings.problems.push(error.to_string()),
    }
}

/// A copy of a store of keys, for this check alone.
fn copy_of(store: &Path, scratch: &Scratch) -> Result<PathBuf, CommandError> {
    let copy = scratch.path().join("trusted.toml");
    match std::fs::copy(store, &copy) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(CommandError::Failed(format!("{}: {error}", store.display())))
        }
        _ => Ok(copy),
    }
}

/// Whether it exports what it promises.
fn look_at(bundle: &BundleStatus, manifest: &ManifestData, findings: &mut Findings) {
    let not_granted = bundle.not_granted.iter();
    findings.warnings.extend(not_granted.map(|what| format!("it wants and does not get: {what}")));
    for promised in &manifest.provides {
        let exported = bundle.contracts.iter().find(|c| c.name == promised.name);
        match exported {
            None => findings.problems.push(format!("it provides no {promised}")),
            Some(contract) if contract.functions.is_empty() => {
                findings.problems.push(format!("{promised} has no function"));
            }
            Some(_) => {}
        }
    }
    for (contract, functions) in &manifest.idempotent {
        let exported = bundle.contracts.iter().filter(|c| c.name == *contract);
        let known: Vec<&String> = exported.flat_map(|c| &c.functions).collect();
        for function in functions.iter().filter(|function| !known.contains(function)) {
            let text = format!("[idempotent] names {contract} {function}, which there is not");
            findings.warnings.push(text);
        }
    }
    if manifest.provides.is_empty() {
        findings.warnings.push("it provides nothing that could be called".to_owned());
    }
    findings.contracts.clone_from(&bundle.contracts);
}

/// In MiB. More is no list of calls that somebody has written.
const MOST_TESTS: u64 = 16;

fn read_tests(dir: &Path) -> Result<Vec<Test>, String> {
    let path = dir.join(TESTS);
    match read_small_file(&path, MOST_TESTS) {
        Ok(text) => {
            // As manifests and code may have one.
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
            let tests = serde_json::from_slice(text).map_err(|error| error.to_string());
            // A value that no call can carry would be changed as it is read.
            let tests = tests.and_then(|tests| check_values(text).map(|()| tests));
            tests.map_err(|problem| format!("{}: {problem}", path.display()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Makes the calls as a client does: by the socket, so that values are written
/// as `menagerie call` writes them.
async fn run_tests(
    supervisor: &Supervisor,
    tests: Vec<Test>,
    scratch: &Scratch,
) -> Result<Vec<TestOutcome>, CommandError> {
    let socket = scratch.path().join("s");
    let mut service = menagerie_supervisor::StatusConfig::default();
    service.socket = Some(socket.clone());
    let _service = StatusSocket::serve(supervisor.clone(), &service)
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    let client = Client::new(&socket);
    let mut outcomes = Vec::new();
    for test in tests {
        let Test { contract, function, args, result, fails } = test;
        let shown: Vec<String> = args.iter().map(Value::to_string).collect();
        let call = format!("{contract} {function}({})", shown.join(", "));
        let body = json!({ "contract": contract, "function": function, "args": args }).to_string();
        let answer = client.text(Method::POST, "/v1/call", Some(body)).await;
        let error = match &answer {
            Err(CommandError::Problem(problem)) => &problem["error"],
            _ => &Value::Null,
        };
        let is_own = error.get("Guest").or(error.get("BadArguments")).is_some();
        let (stack, died) = (told::of_error(error), error.get("WorkerCrashed").is_some());
        let detail = match answer {
            Ok(text) if fails => Some(format!("it should fail, and answered {text}")),
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Ok(value) if value == result => None,
                _ => Some(format!("expected {result}, and got {text}")),
            },
            Err(_) if fails && is_own => None,
            Err(error) if fails => Some(format!(
                "it should fail by an error of its own, and did not get there: {error}"
            )),
            Err(error) => Some(error.to_string()),
        };
        let stack = stack.filter(|_| detail.is_some());
        outcomes.push(TestOutcome { call, ok: detail.is_none(), detail, stack, died });
    }
    Ok(outcomes)
}
