//! The description and the code are one.

use super::*;
use serde_json::Value;

fn description() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let doc = description();
    let mut described = Vec::new();
    for (path, item) in doc["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            described.push((method.to_uppercase(), path.clone()));
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|s| s.starts_with('2')) && responses.contains_key("503"), "{path}");
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{path}");
            assert_eq!(path.contains("{id}"), operation["parameters"].is_array(), "{path}");
        }
    }
    let mut routes: Vec<_> = api::ROUTES.iter().map(|(m, p, _)| (m.to_string(), p.to_string())).collect();
    described.sort();
    routes.sort();
    assert_eq!(routes, described);
}

/// Every `$ref` leads somewhere.
fn references(v: &Value, doc: &Value) {
    match v {
        Value::Object(o) => {
            if let Some(r) = o.get("$ref") {
                let pointer = r.as_str().unwrap().strip_prefix('#').unwrap();
                assert!(doc.pointer(pointer).is_some(), "{r}");
            }
            o.values().for_each(|v| references(v, doc));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, doc)),
        _ => {}
    }
}

#[test]
fn references_lead_somewhere() {
    references(&description(), &description());
}

/// As much of JSON Schema as the description uses.
fn fits(schema: &Value, v: &Value, doc: &Value) -> Result<(), String> {
    if let Some(r) = schema.get("$ref") {
        let schema = doc.pointer(r.as_str().unwrap().trim_start_matches('#')).unwrap();
        return fits(schema, v, doc);
    }
    if let Some(c) = schema.get("const")
        && c != v
    {
        return Err(format!("{v} is not {c}"));
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array)
        && !all.contains(v)
    {
        return Err(format!("{v} is none of {all:?}"));
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(s) => vec![s],
        Value::Array(a) => a.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let is = |k: &&str| match *k {
        "object" => v.is_object(),
        "array" => v.is_array(),
        "string" => v.is_string(),
        "boolean" => v.is_boolean(),
        "integer" => v.is_u64(),
        "null" => v.is_null(),
        other => panic!("{other}"),
    };
    if !kinds.is_empty() && !kinds.iter().any(is) {
        return Err(format!("{v} is no {kinds:?}"));
    }
    if let (Some(a), Some(items)) = (v.as_array(), schema.get("items")) {
        a.iter().try_for_each(|i| fits(items, i, doc))?;
    }
    if let Some(o) = v.as_object() {
        for r in schema["required"].as_array().into_iter().flatten() {
            if !o.contains_key(r.as_str().unwrap()) {
                return Err(format!("{r} is missing"));
            }
        }
        for (k, v) in o {
            match (schema["properties"].get(k), &schema["additionalProperties"]) {
                (Some(s), _) => fits(s, v, doc)?,
                (None, Value::Bool(false)) => return Err(format!("{k} is not described")),
                (None, s) if s.is_object() => fits(s, v, doc)?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn machine() -> Arc<Machine> {
    Arc::new(Machine {
        name: "m".into(),
        cpus: 1,
        memory: 1 << 20,
        clock: "host",
        options: Options {
            place: Place::Named { wanted: true },
            profile: "max".into(),
            policy: "hw".into(),
            engine: "jit".into(),
            kernel: (6, 12),
        },
        begin: Instant::now(),
        shared: Arc::default(),
        turn: Mutex::default(),
    })
}

fn life(count: u32) -> Life {
    struct Nowhere;
    impl ulna_devices::IrqLine for Nowhere {
        fn set(&self, _: bool) {}
    }
    let mpidrs: Vec<u64> = (0..count.into()).collect();
    let kickers: Vec<Kicker> = mpidrs.iter().map(|_| Kicker::new(|| {})).collect();
    let power = Power::new(&mpidrs, &kickers, 1, Default::default(), vec![]);
    let suspend = Suspend::new(Default::default(), vec![], kickers.clone());
    Life {
        gate: Arc::new(Gate::new(false, true)),
        parts: None,
        kickers,
        power: Some(Arc::new(power)),
        suspend: Arc::new(suspend),
        tallies: Arc::new(mpidrs.iter().map(|_| Tally::default()).collect()),
        gpio: Arc::new(Mutex::new(Gpio::new(Arc::new(Nowhere)))),
        gic: 3,
        mpidrs,
        services: [("psci".to_owned(), "1.1".to_owned())].into(),
        nmi: Box::new(|cpu| if cpu == 0 { Ok(()) } else { Err(Errno::EINVAL) }),
        quit: Box::new(|| {}),
    }
}

/// Status and body, both as described for the route.
fn ask(m: &Machine, method: &str, template: &str, id: &str, body: &str) -> (u16, Value) {
    let doc = description();
    let request =
        http::Request { method: method.into(), path: template.replace("{id}", id), body: body.into() };
    let answer = api::respond(m, &request);
    let (status, value) =
        (answer.response.status, serde_json::from_slice(&answer.response.body).unwrap_or(Value::Null));
    let responses = &doc["paths"][template][method.to_lowercase()]["responses"];
    let response =
        responses.get(status.to_string()).unwrap_or_else(|| panic!("{method} {template}: {status}"));
    fits(&response["content"]["application/json"]["schema"], &value, &doc).unwrap();
    (status, value)
}

#[test]
fn answers_are_as_described() {
    let m = machine();
    assert_eq!(ask(&m, "GET", "/v1/vm", "", "").1["state"], "starting");
    assert_eq!(ask(&m, "POST", "/v1/vm/stop", "", "").0, 503);
    assert_eq!(ask(&m, "PUT", "/v1/vm/cpus/{id}", "1", r#"{"enabled":true}"#).0, 503);
    m.state().life = Some(Arc::new(life(2)));
    assert_eq!(ask(&m, "GET", "/v1/vm", "", "").1["vcpus"][1]["power"], "off");
    assert_eq!(ask(&m, "GET", "/v1/openapi.json", "", "").0, 200);
    assert_eq!(ask(&m, "POST", "/v1/vm/pause", "", "").1["state"], "paused");
    assert_eq!(ask(&m, "POST", "/v1/vm/stop", "", r#"{"how":"power-key"}"#).0, 409);
    assert_eq!(ask(&m, "POST", "/v1/vm/resume", "", "").1["state"], "running");
    assert_eq!(ask(&m, "PUT", "/v1/vm/cpus/{id}", "1", r#"{"enabled":true}"#).1["enabled"], true);
    assert_eq!(ask(&m, "PUT", "/v1/vm/cpus/{id}", "0", r#"{"enabled":false}"#).0, 409);
    assert_eq!(ask(&m, "PUT", "/v1/vm/cpus/{id}", "2", r#"{"enabled":true}"#).0, 404);
    assert_eq!(ask(&m, "PUT", "/v1/vm/cpus/{id}", "x", r#"{"enabled":true}"#).0, 400);
    assert_eq!(ask(&m, "POST", "/v1/vm/nmi", "", "").0, 200);
    assert_eq!(ask(&m, "POST", "/v1/vm/nmi", "", r#"{"cpu":1}"#).0, 409);
    assert_eq!(ask(&m, "POST", "/v1/vm/nmi", "", r#"{"cpu":2}"#).0, 404);
    assert_eq!(ask(&m, "POST", "/v1/vm/nmi", "", r#"{"cpu":-1}"#).0, 400);
    assert_eq!(ask(&m, "POST", "/v1/vm/stop", "", "{}").0, 202);
    assert_eq!(ask(&m, "POST", "/v1/vm/stop", "", r#"{"how":1}"#).0, 400);
}

#[test]
fn a_vcpu_that_does_not_come_to_rest_is_waited_for_in_vain_and_goes_on() {
    let m = machine();
    let life = life(1);
    life.gate.enter();
    m.state().life = Some(Arc::new(life));
    let begin = Instant::now();
    assert_eq!(ask(&m, "POST", "/v1/vm/pause", "", "").0, 503);
    assert!(begin.elapsed() < PATIENCE * 2);
    assert_eq!(m.info().state, RunState::Running);
}
