//! The thread that listens, and those of connections.

use super::http::{Fault, Response, read_request, write_response};
use super::socket::Bound;
use super::{Machine, api};
use crate::error::Error;
use crate::waker::Waker;
use rustix::event::{PollFd, PollFlags, poll};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a request, and then its response, may take on the wire.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most connections at a time; a client that hangs holds one for [`PATIENCE`].
const CONNECTIONS: usize = 32;

/// The listening thread.
pub struct Server {
    path: std::path::PathBuf,
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it.
    pub fn start(socket: Bound, machine: Arc<Machine>, waker: Waker) -> Result<Server, Error> {
        let (path, stop) = (socket.path.clone(), Arc::new(AtomicBool::new(false)));
        let (w, s) = (waker.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("control".into());
        let thread = thread.spawn(move || serve(&socket, &machine, &w, &s));
        let thread = Some(thread.map_err(|e| Error::host("start a thread for the control socket", e))?);
        Ok(Server { path, waker, stop, thread })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends it, and removes the socket.
    pub fn finish(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.finish();
    }
}

/// A place among the connections.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(count: &Arc<AtomicUsize>) -> Option<Seat> {
        let seat = Seat(count.clone());
        (count.fetch_add(1, Ordering::SeqCst) < CONNECTIONS).then_some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(socket: &Bound, machine: &Arc<Machine>, waker: &Waker, stop: &AtomicBool) {
    let count = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Acquire) {
        let mut fds = [
            PollFd::new(&socket.listener, PollFlags::IN),
            PollFd::from_borrowed_fd(waker.fd(), PollFlags::IN),
        ];
        // A signal: the loop looks at everything again.
        let _ = poll(&mut fds, None);
        waker.clear();
        match socket.listener.accept() {
            Ok((stream, _)) => greet(stream, machine, &count),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => {
                // Out of descriptors, most likely: not to spin.
                tracing::warn!("control: {e}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn greet(stream: UnixStream, machine: &Arc<Machine>, count: &Arc<AtomicUsize>) {
    if stream.set_nonblocking(false).is_err() {
        return;
    }
    let refuse = |stream: &UnixStream, why: &str| {
        let _ = write_response(stream, &api::error(503, why), None, Duration::from_millis(100));
    };
    let Some(seat) = Seat::take(count) else {
        return refuse(&stream, "too many connections");
    };
    let machine = machine.clone();
    let thread = std::thread::Builder::new().name("control-client".into());
    let spawned = thread.spawn(move || {
        attend(&stream, &machine);
        drop(seat);
    });
    if let Err(e) = spawned {
        tracing::warn!("control: {e}");
    }
}

/// One connection.
fn attend(stream: &UnixStream, machine: &Machine) {
    let request = match read_request(stream, PATIENCE) {
        Ok(request) => request,
        Err(Fault::Gone) => return,
        Err(Fault::Tell(status, why)) => {
            let _ = write_response(stream, &api::error(status, &why), None, PATIENCE);
            // What it still sends would otherwise make the kernel drop our answer.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = super::http::drain(stream);
            return;
        }
    };
    let answer = api::respond(machine, &request);
    let Response { status, .. } = answer.response;
    tracing::debug!("control: {} {}: {status}", request.method, request.path);
    if let Err(e) = write_response(stream, &answer.response, answer.allow.as_deref(), PATIENCE) {
        tracing::debug!("control: the client is gone: {e}");
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    // The answer is out before the machine can end.
    match answer.then {
        None => {}
        Some(api::Then::Quit) => {
            if let Some(life) = machine.life() {
                (life.quit)();
            }
        }
        Some(api::Then::PowerKey) => machine.press_power_key(),
    }
}
