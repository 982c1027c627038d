use std::collections::BTreeSet;

use serde_json::Value;

use super::common::{Response, Running, docs, exchange, sample};

fn openapi() -> Value {
    let text = std::fs::read_to_string(docs().join("openapi.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Whether a value has a schema's shape; as much of JSON Schema as the document
/// uses.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(name.strip_prefix('#').unwrap());
        return check(document, schema.unwrap_or_else(|| panic!("{name}")), value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let rest: Vec<&Value> = choices.iter().filter(|choice| choice["type"] != "null").collect();
        assert_eq!(rest.len(), 1, "{at}");
        if !value.is_null() {
            check(document, rest[0], value, at);
        }
        return;
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        Value::String(kind) => vec![kind],
        _ => return,
    };
    let fits = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    assert!(kinds.iter().any(fits), "{at}: {value} is no {kinds:?}");
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{at}: {value}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{index}]"));
    }
    let Some(object) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(object.contains_key(name.as_str().unwrap()), "{at} lacks {name}");
    }
    for (name, value) in object {
        match schema["properties"].get(name) {
            Some(schema) => check(document, schema, value, &format!("{at}.{name}")),
            None => assert_ne!(schema["additionalProperties"], false, "{at}.{name}"),
        }
    }
}

/// The document's template of a path.
fn template<'d>(document: &'d Value, path: &str) -> &'d str {
    let path: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
    let paths = document["paths"].as_object().unwrap();
    let fits = |template: &&String| {
        let template: Vec<&str> = template.split('/').collect();
        let same = |(t, p): (&&str, &&str)| t == p || t.starts_with('{');
        template.len() == path.len() && template.iter().zip(&path).all(same)
    };
    paths.keys().find(fits).unwrap_or_else(|| panic!("{path:?}"))
}

/// Holds an answer against the document, and returns what it was an answer to.
fn hold(document: &Value, method: &str, path: &str, response: &Response) -> (String, String, u16) {
    let template = template(document, path);
    let operation = &document["paths"][template][method.to_lowercase()];
    let documented = &operation["responses"][response.status.to_string()];
    assert!(documented.is_object(), "{method} {path} answered {response:?}");
    let (kind, content) = documented["content"].as_object().unwrap().iter().next().unwrap();
    assert!(response.head.contains(kind.as_str()), "{method} {path}: {response:?}");
    if kind.contains("json") {
        check(document, &content["schema"], &response.json(), path);
    }
    (method.to_lowercase(), template.to_owned(), response.status)
}

/// Everything that the document says a path may answer and that can be brought
/// about at will is brought about.
#[test]
fn g_openapi_is_what_the_service_does() {
    let document = openapi();
    let running = Running::start(
        "deadline = \"500ms\"\ngrace = \"100ms\"\nmax_in_flight = 1\n[status]\nmax_request = \"64KiB\"",
    );
    let mut seen = BTreeSet::new();
    let mut ask = |method: &str, path: &str, body: &str| {
        let response = exchange(running.connect(), method, path, &[], body.as_bytes());
        seen.insert(hold(&document, method, path, &response));
        response.status
    };
    for path in document["paths"].as_object().unwrap().keys() {
        if !path.contains('{') && !["/v1/call", "/v1/logs", "/v1/events"].contains(&path.as_str()) {
            assert_eq!(ask("GET", path, ""), 200, "{path}");
        }
    }
    for path in ["/v1/logs", "/v1/events"] {
        assert_eq!(ask("GET", &format!("{path}?follow=false"), ""), 200);
    }
    for path in ["/v1/logs", "/v1/events", "/v1/crashes"] {
        assert_eq!(ask("GET", &format!("{path}?since=x"), ""), 400);
    }
    let call = |function: &str, args: &str| {
        format!("{{\"contract\":\"probe@1\",\"function\":\"{function}\",\"args\":{args}}}")
    };
    let large = "x".repeat(70 << 10);
    assert_eq!(ask("POST", "/v1/call", &call("echo", "[[1,null,\"a\"]]")), 200);
    assert_eq!(ask("POST", "/v1/call", "{"), 400);
    assert_eq!(ask("POST", "/v1/call", &call("nothing", "[]")), 404);
    assert_eq!(ask("POST", "/v1/call", &large), 413);
    assert_eq!(ask("POST", "/v1/call", &call("fail", "[\"x\"]")), 422);
    assert_eq!(ask("POST", "/v1/call", &call("crash", "[]")), 502);
    assert_eq!(ask("POST", "/v1/call", &call("sleep_ms", "[60000]")), 504);
    let path = |name: &str| serde_json::json!({ "path": sample(name) }).to_string();
    assert_eq!(ask("POST", "/v1/bundles", &path("greeter-lua")), 409);
    assert_eq!(ask("POST", "/v1/bundles", &path("nothing")), 404);
    assert_eq!(ask("POST", "/v1/bundles", "{\"path\":\"relative\"}"), 400);
    assert_eq!(ask("POST", "/v1/bundles", &large), 413);
    let broken = running.dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    std::fs::write(broken.join("manifest.toml"), "name = 1").unwrap();
    let broken = serde_json::json!({ "path": broken }).to_string();
    assert_eq!(ask("POST", "/v1/bundles", &broken), 422);
    assert_eq!(ask("POST", "/v1/bundles/greeter-lua/reload", ""), 200);
    assert_eq!(ask("POST", "/v1/bundles/nothing/reload", ""), 404);
    assert_eq!(ask("POST", "/v1/bundles/%ff/reload", ""), 400);
    let own = running.dir.path().join("own");
    std::fs::create_dir(&own).unwrap();
    let manifest = "name = \"own\"\nloader = \"lua\"\nfile = \"a.lua\"\nprovides = [\"own@1\"]";
    std::fs::write(own.join("manifest.toml"), manifest).unwrap();
    std::fs::write(own.join("a.lua"), "return { [\"own@1\"] = { f = function() end } }").unwrap();
    assert_eq!(ask("POST", "/v1/bundles", &serde_json::json!({ "path": own }).to_string()), 201);
    std::fs::write(own.join("a.lua"), "return {").unwrap();
    assert_eq!(ask("POST", "/v1/bundles/own/reload", ""), 422);
    assert_eq!(ask("DELETE", "/v1/bundles/own", ""), 200);
    assert_eq!(ask("POST", "/v1/bundles/greeter-lua/reload", &large), 413);
    assert_eq!(ask("POST", "/v1/workers/lua/restart", ""), 200);
    assert_eq!(ask("POST", "/v1/workers/lua/restart?rolling=true", ""), 200);
    assert_eq!(ask("POST", "/v1/workers/lua/restart?rolling=maybe", ""), 400);
    assert_eq!(ask("POST", "/v1/workers/cobol/restart", ""), 422);
    assert_eq!(ask("POST", "/v1/workers/js/restart", ""), 503, "it was never needed");
    assert_eq!(ask("POST", "/v1/workers/lua/restart", &large), 413);
    assert_eq!(ask("DELETE", "/v1/bundles/greeter-lua", ""), 409);
    assert_eq!(ask("DELETE", "/v1/bundles/greeter-lua?cascade=maybe", ""), 400);
    assert_eq!(ask("DELETE", "/v1/bundles/nothing", ""), 404);
    assert_eq!(ask("DELETE", "/v1/bundles/greeter-lua", &large), 413);
    assert_eq!(ask("DELETE", "/v1/bundles/greeter-lua?cascade=true", ""), 200);
    assert_eq!(ask("POST", "/v1/bundles", &path("greeter-lua")), 201);
    // What other tests bring about (401, 403 by `access`, 408 and 503 by slow
    // and many clients), and what takes a fault or a race.
    let elsewhere = BTreeSet::from([401, 403, 408, 410, 429, 500, 503, 504, 508]);
    let mut unseen = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for status in operation["responses"].as_object().unwrap().keys() {
                let status: u16 = status.parse().unwrap();
                if !elsewhere.contains(&status)
                    && !seen.contains(&(method.clone(), path.clone(), status))
                {
                    unseen.push((method, path, status));
                }
            }
        }
    }
    assert!(unseen.is_empty(), "documented, and never seen: {unseen:?}");
}

/// It loads the bundles into another process, and one of them may hang there.
#[test]
fn g_openapi_has_the_answer_to_a_restart_that_takes_too_long() {
    let document = openapi();
    let running = Running::start("load_timeout = \"5s\"");
    let dir = running.dir.path().join("slow");
    std::fs::create_dir(&dir).unwrap();
    let manifest = "name = \"slow\"\nloader = \"lua\"\nfile = \"a.lua\"\nprovides = [\"slow@1\"]";
    std::fs::write(dir.join("manifest.toml"), manifest).unwrap();
    std::fs::write(dir.join("a.lua"), "return { [\"slow@1\"] = { f = function() end } }").unwrap();
    let body = serde_json::json!({ "path": dir }).to_string();
    assert_eq!(running.post("/v1/bundles", &body).status, 201);
    std::fs::write(dir.join("a.lua"), "while true do end").unwrap();
    let path = "/v1/workers/lua/restart?rolling=true";
    let response = running.post(path, "");
    assert_eq!(response.status, 504, "{response:?}");
    hold(&document, "POST", path, &response);
}

#[test]
fn g_what_is_no_endpoint_is_a_problem() {
    let document = openapi();
    let running = Running::start("");
    for (method, path, status) in
        [("GET", "/v2/status", 404), ("PUT", "/v1/status", 405), ("POST", "/metrics", 405)]
    {
        let response = exchange(running.connect(), method, path, &[], b"");
        assert_eq!(response.status, status, "{method} {path}");
        check(&document, &document["components"]["schemas"]["Problem"], &response.json(), path);
    }
}
