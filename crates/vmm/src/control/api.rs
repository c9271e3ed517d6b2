//! The routes.

use super::Machine;
use super::http::{Request, Response};
use crate::power::Refusal;
use serde::{Deserialize, Serialize};
use ulna_kvm_backend::Errno;

/// What is to happen once the answer is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The machine ends.
    Quit,
    /// The guest is asked to end.
    PowerKey,
}

/// An answer.
pub struct Answer {
    pub response: Response,
    /// For 405: what would be allowed.
    pub allow: Option<String>,
    pub then: Option<Then>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer { response, allow: None, then: None }
    }
}

/// A handler; it is given what stands for `{id}`.
type Handler = fn(&Machine, &str, &[u8]) -> Answer;

/// Method, path, handler. `api/openapi.json` says the same, and a test compares them.
pub const ROUTES: &[(&str, &str, Handler)] = &[
    ("GET", "/v1/vm", info),
    ("POST", "/v1/vm/pause", pause),
    ("POST", "/v1/vm/resume", resume),
    ("POST", "/v1/vm/stop", stop),
    ("POST", "/v1/vm/snapshot", snapshot),
    ("POST", "/v1/vm/migration", migrate),
    ("GET", "/v1/vm/migration", migration),
    ("DELETE", "/v1/vm/migration", cancel),
    ("POST", "/v1/vm/nmi", nmi),
    ("PUT", "/v1/vm/cpus/{id}", cpu),
    ("GET", "/v1/openapi.json", document),
];

/// Finds the route and goes it.
pub fn respond(machine: &Machine, request: &Request) -> Answer {
    let mut allow = Vec::new();
    for (method, template, handler) in ROUTES {
        let Some(id) = matched(template, &request.path) else { continue };
        if *method == request.method {
            return handler(machine, id, &request.body);
        }
        allow.push(*method);
    }
    if allow.is_empty() {
        return error(
            404,
            &format!("there is no {:?}; GET /v1/openapi.json tells what there is", request.path),
        )
        .into();
    }
    let text = format!("{} does not go with {}", request.method, request.path);
    Answer { allow: Some(allow.join(", ")), ..error(405, &text).into() }
}

/// What stands for `{id}`, if the path is of this form.
fn matched<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    match template.strip_suffix("{id}") {
        Some(prefix) => path.strip_prefix(prefix).filter(|id| !id.is_empty() && !id.contains('/')),
        None => (template == path).then_some(""),
    }
}

#[derive(Serialize)]
struct Failure<'a> {
    error: &'a str,
}

/// A failure with one line of text.
pub fn error(status: u16, text: &str) -> Response {
    let line = text.replace(|c: char| c.is_control(), " ");
    json(status, &Failure { error: &line })
}

fn json(status: u16, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => Response { status, body },
        Err(_) => Response { status: 500, body: b"{\"error\":\"the answer cannot be written\"}".to_vec() },
    }
}

#[derive(Serialize)]
struct Stands {
    state: super::RunState,
}

fn info(machine: &Machine, _: &str, _: &[u8]) -> Answer {
    json(200, &machine.info()).into()
}

fn on_its_way() -> Answer {
    error(409, "the machine is on its way to another host: DELETE /v1/vm/migration stops that").into()
}

fn pause(machine: &Machine, _: &str, _: &[u8]) -> Answer {
    if machine.moving() {
        return on_its_way();
    }
    match machine.pause() {
        Ok(()) => json(200, &Stands { state: super::RunState::Paused }).into(),
        Err(late) => {
            let text = format!("{late} vCPU(s) did not come to rest: a device or the debugger holds them");
            error(503, &text).into()
        }
    }
}

fn resume(machine: &Machine, _: &str, _: &[u8]) -> Answer {
    if machine.moving() {
        return on_its_way();
    }
    machine.resume();
    json(200, &Stands { state: super::RunState::Running }).into()
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum How {
    #[default]
    Now,
    PowerKey,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Stop {
    #[serde(default)]
    how: How,
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
}

fn stop(machine: &Machine, _: &str, body: &[u8]) -> Answer {
    let request: Stop = match body {
        [] => Stop::default(),
        body => match parse(body) {
            Ok(r) => r,
            Err(answer) => return answer,
        },
    };
    if machine.life().is_none() {
        return starting();
    }
    if request.how == How::PowerKey && machine.state().paused {
        return error(409, "the machine is paused: its guest cannot see the power key").into();
    }
    let then = match request.how {
        How::Now => Then::Quit,
        How::PowerKey => Then::PowerKey,
    };
    Answer { then: Some(then), ..json(202, &Accepted { accepted: true }).into() }
}

fn snapshot(machine: &Machine, _: &str, body: &[u8]) -> Answer {
    let order: super::carry::Order = match parse(body) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    if machine.life().is_none() {
        return starting();
    }
    if machine.moving() {
        return on_its_way();
    }
    match machine.snapshot(&order) {
        Ok(report) => Answer { then: order.stop.then_some(Then::Quit), ..json(200, &report).into() },
        Err(e) => error(409, &e.to_string()).into(),
    }
}

fn migrate(machine: &Machine, _: &str, body: &[u8]) -> Answer {
    let plan: crate::moves::live::Plan = match parse(body) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    if machine.life().is_none() {
        return starting();
    }
    match machine.migrate(plan) {
        Ok(()) => json(202, &Accepted { accepted: true }).into(),
        Err(why) => error(409, &why).into(),
    }
}

fn migration(machine: &Machine, _: &str, _: &[u8]) -> Answer {
    match machine.migration() {
        Some(status) => json(200, &status).into(),
        None => error(404, "the machine was never on its way").into(),
    }
}

fn cancel(machine: &Machine, _: &str, _: &[u8]) -> Answer {
    match machine.cancel_migration() {
        true => json(202, &Accepted { accepted: true }).into(),
        false => error(404, "the machine is not on its way").into(),
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Nmi {
    #[serde(default)]
    cpu: u32,
}

fn nmi(machine: &Machine, _: &str, body: &[u8]) -> Answer {
    let request: Nmi = match body {
        [] => Nmi::default(),
        body => match parse(body) {
            Ok(r) => r,
            Err(answer) => return answer,
        },
    };
    let Some(life) = machine.life() else { return starting() };
    if life.mpidrs.len() <= request.cpu as usize {
        return error(404, &format!("there is no vCPU {}; there are {}", request.cpu, life.mpidrs.len()))
            .into();
    }
    match (life.nmi)(request.cpu) {
        Ok(()) => json(200, &Raised { raised: true }).into(),
        Err(e) if e == Errno::EINVAL => {
            error(409, "the guest takes no NMI: it has no SDEI (ulna run --services sdei=1.1)").into()
        }
        Err(e) => error(409, &format!("KVM refuses: {e}")).into(),
    }
}

#[derive(Serialize)]
struct Raised {
    raised: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enable {
    enabled: bool,
}

fn cpu(machine: &Machine, id: &str, body: &[u8]) -> Answer {
    // A number as everybody writes it: no sign, no zeros in front.
    let number = id.parse::<u32>().ok().filter(|n| n.to_string() == id);
    let Some(id) = number else { return error(400, &format!("{id:?} is no number of a vCPU")).into() };
    let request: Enable = match parse(body) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    let Some(life) = machine.life() else { return starting() };
    if life.mpidrs.len() <= id as usize {
        return error(404, &format!("there is no vCPU {id}; there are {}", life.mpidrs.len())).into();
    }
    let Some(power) = &life.power else {
        return error(409, "a machine with one vCPU, or a KVM without a filter of hypercalls, enables none")
            .into();
    };
    match power.enable(id, request.enabled) {
        Ok(()) => match life.vcpus().into_iter().nth(id as usize) {
            Some(vcpu) => json(200, &vcpu).into(),
            None => error(500, "the vCPU vanished").into(),
        },
        Err(Refusal::On) => {
            error(409, &format!("vCPU {id} is on: have the guest switch it off first")).into()
        }
        Err(Refusal::Unknown) => error(404, &format!("there is no vCPU {id}")).into(),
    }
}

fn document(_: &Machine, _: &str, _: &[u8]) -> Answer {
    Response { status: 200, body: super::OPENAPI.as_bytes().to_vec() }.into()
}

fn starting() -> Answer {
    error(503, "the machine is starting, or ends; try again").into()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Answer> {
    serde_json::from_slice(body)
        .map_err(|e| error(400, &format!("the body is not what is expected: {e}")).into())
}
