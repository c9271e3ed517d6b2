//! The other side of the API.

use super::http::{self, Fault, Request};
use super::{Info, VcpuInfo};
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a machine may take to answer: it waits for its vCPUs to come to rest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a machine did not do what was asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// Nobody is there.
    #[error("no machine listens at {0}")]
    Nobody(PathBuf),
    /// Somebody is there and says nothing of use.
    #[error("the machine at {0} does not answer: {1}")]
    Silent(PathBuf, String),
    /// It refuses; status and its own words.
    #[error("{1}")]
    Refused(u16, String),
}

/// A machine's API.
#[derive(Clone)]
pub struct Client {
    path: PathBuf,
    patience: Duration,
}

impl Client {
    /// The machine at this socket.
    pub fn new(path: impl Into<PathBuf>) -> Client {
        Client { path: path.into(), patience: PATIENCE }
    }

    /// With another patience.
    pub fn patient(self, patience: Duration) -> Client {
        Client { patience, ..self }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A request; the body of the answer.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Result<Vec<u8>, ClientError> {
        let silent = |why: String| ClientError::Silent(self.path.clone(), why);
        let stream = UnixStream::connect(&self.path).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::Nobody(self.path.clone()),
            _ => silent(e.to_string()),
        })?;
        let request = Request { method: method.into(), path: path.into(), body: body.into() };
        stream.set_write_timeout(Some(self.patience)).map_err(|e| silent(e.to_string()))?;
        http::write_request(&stream, &request).map_err(|e| silent(e.to_string()))?;
        let response = http::read_response(&stream, self.patience).map_err(|e| match e {
            Fault::Gone => silent("it hung up".into()),
            Fault::Tell(_, why) => silent(why),
        })?;
        if (200..300).contains(&response.status) {
            return Ok(response.body);
        }
        let text = serde_json::from_slice::<serde_json::Value>(&response.body).ok();
        let text = text.as_ref().and_then(|v| v.get("error")?.as_str()).unwrap_or("no reason given");
        Err(ClientError::Refused(response.status, text.to_owned()))
    }

    fn typed<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> Result<T, ClientError> {
        let body = self.call(method, path, body)?;
        serde_json::from_slice(&body).map_err(|e| ClientError::Silent(self.path.clone(), e.to_string()))
    }

    /// What there is to know.
    pub fn info(&self) -> Result<Info, ClientError> {
        self.typed("GET", "/v1/vm", "")
    }

    /// Stops all vCPUs and the guest's clock.
    pub fn pause(&self) -> Result<(), ClientError> {
        self.call("POST", "/v1/vm/pause", "").map(drop)
    }

    /// Lets them go on.
    pub fn resume(&self) -> Result<(), ClientError> {
        self.call("POST", "/v1/vm/resume", "").map(drop)
    }

    /// Ends the machine at once.
    pub fn stop(&self) -> Result<(), ClientError> {
        self.call("POST", "/v1/vm/stop", r#"{"how":"now"}"#).map(drop)
    }

    /// Presses its power key.
    pub fn press_power_key(&self) -> Result<(), ClientError> {
        self.call("POST", "/v1/vm/stop", r#"{"how":"power-key"}"#).map(drop)
    }

    /// Takes a snapshot.
    pub fn snapshot(&self, order: &super::Order) -> Result<crate::moves::snapshot::Report, ClientError> {
        let body = serde_json::to_string(order).unwrap_or_default();
        self.typed("POST", "/v1/vm/snapshot", &body)
    }

    /// Begins a move to another host.
    pub fn migrate(&self, plan: &crate::moves::live::Plan) -> Result<(), ClientError> {
        let body = serde_json::to_string(plan).unwrap_or_default();
        self.call("POST", "/v1/vm/migration", &body).map(drop)
    }

    /// How far it is.
    pub fn migration(&self) -> Result<crate::moves::live::Status, ClientError> {
        self.typed("GET", "/v1/vm/migration", "")
    }

    /// Gives it up.
    pub fn cancel_migration(&self) -> Result<(), ClientError> {
        self.call("DELETE", "/v1/vm/migration", "").map(drop)
    }

    /// Raises SDEI's host event on a vCPU.
    pub fn nmi(&self, cpu: u32) -> Result<(), ClientError> {
        self.call("POST", "/v1/vm/nmi", &format!(r#"{{"cpu":{cpu}}}"#)).map(drop)
    }

    /// Enables or disables a vCPU.
    pub fn enable_cpu(&self, id: u32, enabled: bool) -> Result<VcpuInfo, ClientError> {
        self.typed("PUT", &format!("/v1/vm/cpus/{id}"), &format!(r#"{{"enabled":{enabled}}}"#))
    }

    /// Waits until nobody listens any more; `false` if somebody still does.
    pub fn wait_for_the_end(&self, at_most: Duration) -> bool {
        let end = Instant::now() + at_most;
        loop {
            match UnixStream::connect(&self.path) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    return true;
                }
                _ if Instant::now() >= end => return false,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
