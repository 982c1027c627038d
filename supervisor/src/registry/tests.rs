use menagerie_protocol::BundleSource;

use super::*;
use crate::bundle::Content;
use crate::placement::WorkerName;

pub(super) fn manifest(text: &str) -> ManifestData {
    ManifestData::parse(&format!("loader = \"lua\"\n{text}")).unwrap().manifest
}

fn content(text: &str) -> Content {
    Content::plain(manifest(text), BundleSource::Code(String::new()))
}

fn add(registry: &mut Registry, text: &str) {
    let bundle = Bundle::new(content(text), None);
    registry.reserve(&bundle).unwrap();
    registry.publish(&bundle.name);
}

fn resolve(registry: &Registry, request: &str, bundle: Option<&str>) -> Option<String> {
    let (bundle, _) = registry.resolve(&request.parse().unwrap(), bundle).ok()?;
    Some(bundle.name.clone())
}

fn check(registry: &Registry, text: &str) -> Result<(), RuntimeError> {
    registry.check_dependencies(&manifest(text), |request| request.name == "host")
}

fn names(bundles: &[Arc<Bundle>]) -> Vec<&str> {
    bundles.iter().map(|bundle| bundle.name.as_str()).collect()
}

#[test]
fn r1_the_newest_version_wins_and_ties_go_by_name() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"b\"\nprovides = [\"c@1.2\"]");
    add(&mut registry, "name = \"a\"\nprovides = [\"c@1.2\"]");
    add(&mut registry, "name = \"d\"\nprovides = [\"c@2.0\"]");
    add(&mut registry, "name = \"e\"\nprovides = [\"c@1.1\"]");
    assert_eq!(resolve(&registry, "c", None).as_deref(), Some("d"));
    assert_eq!(resolve(&registry, "c@1", None).as_deref(), Some("a"));
    assert_eq!(resolve(&registry, "c@1", Some("e")).as_deref(), Some("e"));
    assert_eq!(resolve(&registry, "c@1.3", None), None);
    assert_eq!(resolve(&registry, "x", None), None);
}

#[test]
fn r1_a_relaxed_registry_takes_older_minors_and_yolo_any_version() {
    for (rule, minor, major) in [
        (Compatibility::Strict, None, None),
        (Compatibility::Relaxed, Some("a"), None),
        (Compatibility::Yolo, Some("a"), Some("a")),
    ] {
        let mut registry = Registry::new(rule);
        add(&mut registry, "name = \"a\"\nprovides = [\"c@1.2\"]");
        assert_eq!(resolve(&registry, "c@1.5", None).as_deref(), minor, "{rule:?}");
        assert_eq!(resolve(&registry, "c@4", None).as_deref(), major, "{rule:?}");
        let loads = check(&registry, "name = \"x\"\nbundle_dependencies = [\"a@0.1\"]").is_ok();
        assert_eq!(loads, rule != Compatibility::Strict, "a's own version is 0.0.0");
    }
}

#[test]
fn r3_what_is_missing_is_named() {
    let mut registry = Registry::default();
    let needy = "name = \"a\"\nbundle_dependencies = [\"b@1.0\"]";
    assert_eq!(
        check(&registry, needy).unwrap_err().to_string(),
        "bundle 'a' needs bundle 'b', which is not loaded; load it first"
    );
    add(&mut registry, "name = \"b\"\nversion = \"0.9.1\"");
    assert_eq!(
        check(&registry, needy).unwrap_err().to_string(),
        "bundle 'a' needs bundle 'b@1.0', but version 0.9.1 is loaded"
    );
    let needy = "name = \"a\"\n[[dependency]]\ncontract = \"c@1\"";
    assert_eq!(
        check(&registry, needy).unwrap_err().to_string(),
        "bundle 'a' needs contract 'c@1', which no loaded bundle provides"
    );
    add(&mut registry, "name = \"p\"\nprovides = [\"c@1\"]");
    check(&registry, needy).unwrap();
    assert_eq!(
        check(&registry, &format!("{needy}\nbundle = \"b\"")).unwrap_err().to_string(),
        "bundle 'a' needs contract 'c@1', which bundle 'b' does not provide"
    );
}

#[test]
fn c5_a_contract_of_the_host_must_be_there() {
    let registry = Registry::default();
    let needs = |name: &str| {
        format!("name = \"a\"\n[[dependency]]\nkind = \"host\"\ncontract = \"{name}\"")
    };
    check(&registry, &needs("host")).unwrap();
    let error = check(&registry, &needs("kv@2")).unwrap_err();
    assert!(matches!(
        &error,
        RuntimeError::UnsatisfiedCapability { kind: DependencyKind::Host, .. }
    ));
    assert_eq!(
        error.to_string(),
        "bundle 'a' needs contract 'kv@2', which the host does not provide"
    );
}

#[test]
fn r4_a_bundle_in_use_stays_until_its_dependents_are_gone() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p1\"\nprovides = [\"c@1\"]");
    add(&mut registry, "name = \"user\"\n[[dependency]]\ncontract = \"c@1\"");
    assert_eq!(in_use(registry.take("p1")), ["user"]);
    add(&mut registry, "name = \"named\"\nbundle_dependencies = [\"p1\"]");
    assert_eq!(in_use(registry.take("p1")), ["named", "user"]);
    add(&mut registry, "name = \"p2\"\nprovides = [\"c@1\"]");
    assert_eq!(in_use(registry.take("p1")), ["named"]);
    registry.take("named").unwrap();
    registry.take("p1").unwrap();
    assert!(matches!(registry.take("p1"), Err(RuntimeError::BundleNotFound { .. })));
}

#[test]
fn r4_a_cascade_is_taken_whole_or_not_at_all() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p\"\nprovides = [\"c@1\"]");
    add(&mut registry, "name = \"user\"\n[[dependency]]\ncontract = \"c@1\"");
    let loading =
        Bundle::new(content("name = \"loading\"\nbundle_dependencies = [\"user\"]"), None);
    registry.reserve(&loading).unwrap();
    assert!(matches!(
        registry.take_cascade("p"),
        Err(RuntimeError::DependencyInUse { dependents, .. }) if dependents == ["loading"]
    ));
    assert_eq!(registry.all().len(), 3);
    registry.publish("loading");
    assert_eq!(names(&registry.take_cascade("p").unwrap()), ["loading", "user", "p"]);
    assert!(registry.all().is_empty());
}

#[test]
fn r4_a_reload_must_not_take_away_what_others_need() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p\"\nversion = \"1.2.0\"\nprovides = [\"c@1.1\"]");
    add(&mut registry, "name = \"user\"\n[[dependency]]\ncontract = \"c@1.1\"");
    add(&mut registry, "name = \"named\"\nbundle_dependencies = [\"p@1.1\"]");
    let reload = |text: &str| registry.check_reload(&manifest(text), |_| false);
    reload("name = \"p\"\nversion = \"1.3.0\"\nprovides = [\"c@1.2\"]").unwrap();
    for (text, who) in [
        ("name = \"p\"\nversion = \"1.2.0\"\nprovides = [\"c@1.0\"]", "user"),
        ("name = \"p\"\nversion = \"1.2.0\"", "user"),
        ("name = \"p\"\nversion = \"1.0.0\"\nprovides = [\"c@1.1\"]", "named"),
    ] {
        let error = reload(text).unwrap_err();
        assert!(
            matches!(&error, RuntimeError::DependencyInUse { dependents, .. } if dependents == &[who]),
            "{text}: {error:?}"
        );
    }
    let ring = "name = \"p\"\nversion = \"1.2.0\"\nprovides = [\"c@1.1\"]\nbundle_dependencies = [\"user\"]";
    assert!(matches!(reload(ring), Err(RuntimeError::DependencyCycle { .. })));
}

fn begin_reload(registry: &mut Registry, text: &str) -> Result<Arc<ManifestData>, RuntimeError> {
    let coming = Arc::new(manifest(text));
    let bundle = registry.get(&coming.name)?;
    registry.begin_reload(&bundle, &coming, |_| false).map(|()| coming)
}

fn end_reload(registry: &mut Registry, coming: &Arc<ManifestData>, succeeds: bool) {
    let bundle = registry.get(&coming.name).unwrap();
    if succeeds {
        let source = BundleSource::Code(String::new());
        bundle.set_content(Arc::new(Content::plain(ManifestData::clone(coming), source)));
    }
    registry.end_reload(&bundle, coming);
}

const USER: &str = "name = \"user\"\n[[dependency]]\ncontract = \"c@1\"";

fn two_providers() -> Registry {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p1\"\nprovides = [\"c@1\"]");
    add(&mut registry, "name = \"p2\"\nprovides = [\"c@1\"]");
    add(&mut registry, USER);
    registry
}

fn in_use<T: std::fmt::Debug>(result: Result<T, RuntimeError>) -> Vec<String> {
    match result {
        Err(RuntimeError::DependencyInUse { dependents, .. }) => dependents,
        other => panic!("{other:?}"),
    }
}

#[test]
fn r4_what_a_reload_may_take_away_is_not_counted_on() {
    let takes_away = |name: &str| format!("name = \"{name}\"\nprovides = [\"d@1\"]");
    for succeeds in [true, false] {
        let mut registry = two_providers();
        let coming = begin_reload(&mut registry, &takes_away("p1")).unwrap();
        assert_eq!(in_use(registry.take("p2")), ["user"]);
        assert_eq!(in_use(begin_reload(&mut registry, &takes_away("p2"))), ["user"]);
        // Neither what may go nor what may come is there for who is loaded now.
        for contract in ["c", "d"] {
            let text = format!(
                "name = \"late\"\n[[dependency]]\ncontract = \"{contract}@1\"\nbundle = \"p1\""
            );
            check(&registry, &text).unwrap_err();
        }
        end_reload(&mut registry, &coming, succeeds);
        assert_eq!(registry.take("p2").is_ok(), !succeeds);
    }
}

#[test]
fn r4_what_a_reload_may_come_to_need_stays() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p\"\nversion = \"1.2.0\"\nprovides = [\"c@1\"]");
    add(&mut registry, "name = \"user\"");
    let coming = begin_reload(&mut registry, USER).unwrap();
    assert_eq!(in_use(registry.take("p")), ["user"]);
    assert_eq!(in_use(begin_reload(&mut registry, "name = \"p\"")), ["user"]);
    // Both together would need each other.
    let needs_user = "name = \"p\"\nprovides = [\"c@1\"]\nbundle_dependencies = [\"user\"]";
    let ring = begin_reload(&mut registry, needs_user);
    assert!(matches!(ring, Err(RuntimeError::DependencyCycle { .. })), "{ring:?}");
    end_reload(&mut registry, &coming, false);
    registry.take("p").unwrap();
}

#[test]
fn r4_versions_that_a_reload_may_bring_have_to_do() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p\"\nversion = \"1.2.0\"");
    add(&mut registry, "name = \"user\"");
    let needs = |version: &str| format!("bundle_dependencies = [\"p@{version}\"]");
    let older = begin_reload(&mut registry, "name = \"p\"\nversion = \"1.1.0\"").unwrap();
    check(&registry, &format!("name = \"late\"\n{}", needs("1.1"))).unwrap();
    let error = check(&registry, &format!("name = \"late\"\n{}", needs("1.2"))).unwrap_err();
    let found = matches!(&error, RuntimeError::DependencyNotFound { found: Some(found), .. } if found == "1.1.0");
    assert!(found, "{error:?}");
    end_reload(&mut registry, &older, true);
    // Now it is the user that is being reloaded.
    begin_reload(&mut registry, &format!("name = \"user\"\n{}", needs("1.1"))).unwrap();
    let oldest = begin_reload(&mut registry, "name = \"p\"\nversion = \"1.0.0\"");
    assert_eq!(in_use(oldest), ["user"]);
}

/// It does not serve itself any more, and nobody else does.
#[test]
fn r3_a_reload_cannot_need_what_only_the_old_generation_provides() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"p\"\nprovides = [\"c@1\"]");
    let needs = "name = \"p\"\n[[dependency]]\ncontract = \"c@1\"";
    let outcome = begin_reload(&mut registry, needs);
    let lacks = matches!(outcome, Err(RuntimeError::UnsatisfiedCapability { .. }));
    assert!(lacks, "{outcome:?}");
    add(&mut registry, "name = \"other\"\nprovides = [\"c@1\"]");
    begin_reload(&mut registry, needs).unwrap();
}

/// Its load may yet fail.
#[test]
fn r4_a_provider_that_is_being_loaded_is_not_counted_on() {
    let mut registry = two_providers();
    registry.take("p2").unwrap();
    let p3 = Bundle::new(content("name = \"p3\"\nprovides = [\"c@1\"]"), None);
    registry.reserve(&p3).unwrap();
    assert_eq!(in_use(registry.take("p1")), ["user"]);
    assert_eq!(in_use(begin_reload(&mut registry, "name = \"p1\"")), ["user"]);
    registry.publish("p3");
    registry.take("p1").unwrap();
}

/// Of two reloads of one bundle the second may begin before the first has seen to its end.
#[test]
fn r4_the_end_of_a_reload_is_not_that_of_the_next() {
    let mut registry = two_providers();
    let first = begin_reload(&mut registry, "name = \"p1\"\nprovides = [\"c@1\"]").unwrap();
    let second = begin_reload(&mut registry, "name = \"p1\"").unwrap();
    end_reload(&mut registry, &first, true);
    assert_eq!(in_use(registry.take("p2")), ["user"]);
    end_reload(&mut registry, &second, false);
    registry.take("p2").unwrap();
    // One that was unloaded meanwhile is not reloaded.
    let p1 = registry.get("p1").unwrap();
    registry.take("user").unwrap();
    registry.take("p1").unwrap();
    let outcome = registry.begin_reload(&p1, &second, |_| false);
    assert!(matches!(outcome, Err(RuntimeError::BundleNotFound { .. })), "{outcome:?}");
}

#[test]
fn s4_restored_are_providers_before_dependents_whatever_was_loaded_first() {
    let mut registry = Registry::default();
    add(&mut registry, "name = \"user\"");
    add(&mut registry, "name = \"p\"\nprovides = [\"c@1\"]");
    assert_eq!(names(&registry.of_worker(&WorkerName::shared("lua"))), ["user", "p"]);
    // A reload has given it a dependency.
    let user = registry.get("user").unwrap();
    let depends = content("name = \"user\"\n[[dependency]]\ncontract = \"c@1\"");
    user.set_content(Arc::new(depends));
    assert_eq!(names(&registry.of_worker(&WorkerName::shared("lua"))), ["p", "user"]);
    assert!(registry.of_worker(&WorkerName::shared("js")).is_empty());
}

#[test]
fn r4_those_who_ask_for_it_are_initialised_again_in_order() {
    let mut registry = Registry::default();
    let asks = "needs_reinit_on_dep_reload = true";
    add(&mut registry, "name = \"p\"\nprovides = [\"c@1\"]");
    add(&mut registry, &format!("name = \"z\"\n{asks}\n[[dependency]]\ncontract = \"c@1\""));
    add(&mut registry, &format!("name = \"a\"\n{asks}\nbundle_dependencies = [\"z\"]"));
    add(&mut registry, "name = \"quiet\"\nbundle_dependencies = [\"p\"]");
    add(&mut registry, &format!("name = \"b\"\n{asks}\nbundle_dependencies = [\"quiet\"]"));
    assert_eq!(registry.to_reinitialise("p"), ["z", "a"]);
    assert_eq!(registry.to_reinitialise("quiet"), ["b"]);
    assert!(registry.to_reinitialise("a").is_empty());
}
