use std::fs;

use super::*;

fn version(text: &str) -> Version {
    Version::parse(text).unwrap()
}

#[test]
fn version_orders_as_dotnet_does() {
    assert!(version("8.0.10") > version("8.0.9"));
    assert!(version("10.0.0") > version("9.0.7"));
    assert!(version("9.0.0-rc.1") < version("9.0.0"));
    assert_eq!(Version::parse("latest"), None);
}

#[test]
fn choose_takes_the_newest_patch_of_the_oldest_major_that_will_do() {
    let all = ["6.0.1", "10.0.1", "8.0.4", "8.0.12", "9.0.0"].map(version);
    assert_eq!(choose(all.to_vec()), Some(version("8.0.12")));
    assert_eq!(choose(vec![version("7.0.0")]), None);
    assert_eq!(choose(vec![version("10.0.0-preview.1")]), None);
}

#[test]
fn search_passes_over_places_without_a_runtime() {
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    let good = dir.path().join("good");
    for (root, version) in [(&old, "6.0.0"), (&good, "8.0.4")] {
        fs::create_dir_all(root.join("shared").join(FRAMEWORK).join(version)).unwrap();
        let fxr = root.join("host/fxr").join(version);
        fs::create_dir_all(&fxr).unwrap();
        fs::write(fxr.join("libhostfxr.so"), "").unwrap();
    }
    let bridge = dir.path().join("bridge");
    fs::create_dir_all(&bridge).unwrap();
    let mut search = Search { runtimes: vec![old, good.clone()], bridges: vec![bridge.clone()] };
    assert_eq!(search.runtime_version(), ".NET 8.0.4");

    let problem = search.find().unwrap_err().to_string();
    assert!(problem.contains(BRIDGE) && problem.contains("setup-dotnet"), "{problem}");

    fs::write(bridge.join(BRIDGE), "").unwrap();
    let found = search.find().unwrap();
    let root = good.canonicalize().unwrap();
    assert_eq!(found.root, root);
    // Nothing else that lies there, such as a user's keys, is for bundles.
    let files = [root.join("host"), root.join("shared"), bridge.canonicalize().unwrap()];
    assert_eq!(search.files(), files);

    search.runtimes.pop();
    let problem = search.find().unwrap_err().to_string();
    assert!(problem.contains("old") && problem.contains("DOTNET_ROOT"), "{problem}");
    assert_eq!(search.runtime_version(), ".NET not found");
}
