//! Network device (virtio 1.2 section 5.1): one pair of queues, no offloads.
//!
//! Frames go to and come from a [`NetBackend`]. Nothing here waits: when the guest has no receive buffers frames stay
//! with the backend, and what that cannot hold is dropped upstream; when the backend is full transmit buffers stay in the ring until
//! it has room. A backend that is gone takes the link down, and the guest is told.

mod passt;
mod tap;

pub use passt::{Passt, PasstError, PasstOptions};
pub use tap::{Tap, TapError};

use super::{Chain, Event, Fault, Interest, Queues, VirtioDevice};
use crate::mmio::Attention;
use std::io;
use std::os::fd::OwnedFd;
use vm_memory::GuestMemory;

const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;

const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZE: u16 = 256;

/// `struct virtio_net_hdr` with num_buffers, as VERSION_1 has it always (section 5.1.6).
const HEADER: usize = 12;
/// The longest Ethernet frame: 65535 bytes of MTU and a header with a VLAN tag.
pub const MAX_FRAME: usize = 65535 + 18;
/// Frames thrown away when a driver starts: what arrived while nobody listened.
const STALE_MAX: usize = 4096;

/// Where frames go. All calls return at once.
pub trait NetBackend: Send + 'static {
    /// The file to wait on, duplicated.
    fn source(&self) -> io::Result<OwnedFd>;
    /// The frame that arrived first, if any; it stays until [`NetBackend::consume`]. An error is final.
    fn peek(&mut self) -> io::Result<Option<&[u8]>>;
    /// Takes in what arrived, as far as there is room for it. An error is final.
    fn pump(&mut self) -> io::Result<()>;
    /// There is room: [`NetBackend::pump`] when the file can be read.
    fn hungry(&self) -> bool;
    /// Forgets the frame seen by [`NetBackend::peek`].
    fn consume(&mut self);
    /// Sends a frame, or drops it as a wire would. An error is final.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Goes on with what could not be sent at once. An error is final.
    fn flush(&mut self) -> io::Result<()>;
    /// There is something to [`NetBackend::flush`]; do not send more.
    fn blocked(&self) -> bool;
}

impl NetBackend for Box<dyn NetBackend> {
    fn source(&self) -> io::Result<OwnedFd> {
        (**self).source()
    }
    fn peek(&mut self) -> io::Result<Option<&[u8]>> {
        (**self).peek()
    }
    fn pump(&mut self) -> io::Result<()> {
        (**self).pump()
    }
    fn hungry(&self) -> bool {
        (**self).hungry()
    }
    fn consume(&mut self) {
        (**self).consume();
    }
    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        (**self).send(frame)
    }
    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
    fn blocked(&self) -> bool {
        (**self).blocked()
    }
}

/// A network card.
pub struct Net<B: NetBackend> {
    backend: B,
    mac: [u8; 6],
    mtu: u16,
    features: u64,
    link_up: bool,
    /// Frames wait for receive buffers.
    starved: bool,
    buffer: Vec<u8>,
    attention: Option<Attention>,
    error: Option<io::Error>,
}

impl<B: NetBackend> Net<B> {
    /// A card with address `mac` whose frames carry at most `mtu` bytes (68 at least, as IPv4 asks).
    pub fn new(backend: B, mac: [u8; 6], mtu: u16) -> Self {
        Net {
            backend,
            mac,
            mtu: mtu.max(68),
            features: 0,
            link_up: true,
            starved: false,
            buffer: Vec::new(),
            attention: None,
            error: None,
        }
    }

    /// Sets the hook that is called when the backend is gone.
    pub fn set_attention(&mut self, attention: Attention) {
        self.attention = Some(attention);
    }

    /// The backend's error, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    fn lose_link<M: GuestMemory>(&mut self, error: io::Error, queues: &mut Queues<'_, M>) {
        self.link_up = false;
        self.starved = false;
        self.error = Some(error);
        queues.set_config(self.config());
        if let Some(hook) = &self.attention {
            hook();
        }
    }

    fn transmit<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        loop {
            if self.link_up
                && self.backend.blocked()
                && let Err(e) = self.backend.flush()
            {
                self.lose_link(e, queues);
            }
            if self.link_up && self.backend.blocked() {
                return Ok(());
            }
            let Some(chain) = queues.take(TX)? else { return Ok(()) };
            if self.link_up
                && self.gather(&chain, queues)
                && let Err(e) = self.backend.send(&self.buffer)
            {
                self.lose_link(e, queues);
            }
            queues.complete(TX, chain, 0)?;
        }
    }

    /// Collects a frame behind its header; false if there is none that could be sent.
    fn gather<M: GuestMemory>(&mut self, chain: &Chain, queues: &Queues<'_, M>) -> bool {
        let mut reader = chain.reader(queues.mem());
        if reader.read_array::<HEADER>().is_err() {
            return false;
        }
        let len = reader.remaining();
        if len == 0 || len > MAX_FRAME as u64 {
            return false;
        }
        self.buffer.resize(len as usize, 0);
        reader.read_exact(&mut self.buffer).is_ok()
    }

    fn receive<M: GuestMemory>(&mut self, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        self.starved = false;
        while self.link_up {
            let frame = match self.backend.peek() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(e) => {
                    self.lose_link(e, queues);
                    break;
                }
            };
            let most = if self.features & F_MRG_RXBUF != 0 { usize::from(QUEUE_SIZE) } else { 1 };
            match place(frame, most, queues)? {
                Placed::Done => self.backend.consume(),
                Placed::NoBuffers => {
                    self.starved = true;
                    break;
                }
            }
        }
        Ok(())
    }
}

enum Placed {
    /// The frame is with the guest, or dropped because it can never fit.
    Done,
    NoBuffers,
}

/// Puts a frame with its header into at most `most` receive buffers.
fn place<M: GuestMemory>(frame: &[u8], most: usize, queues: &mut Queues<'_, M>) -> Result<Placed, Fault> {
    let need = (HEADER + frame.len()) as u64;
    let mut chains: Vec<Chain> = Vec::with_capacity(1);
    let mut room = 0;
    while room < need && chains.len() < most {
        let Some(chain) = queues.take(RX)? else {
            put_back(chains, queues);
            return Ok(Placed::NoBuffers);
        };
        room += chain.writable_len();
        chains.push(chain);
    }
    if room < need {
        put_back(chains, queues);
        return Ok(Placed::Done);
    }
    let mut header = [0; HEADER];
    header[10..].copy_from_slice(&(chains.len() as u16).to_le_bytes()); // num_buffers
    let mut parts = [&header[..], frame];
    for chain in chains {
        let mut writer = chain.writer(queues.mem());
        for part in &mut parts {
            let n = writer.remaining().min(part.len() as u64) as usize;
            if writer.write_all(&part[..n]).is_err() {
                break; // a buffer outside memory: the frame arrives damaged, as the driver asked for it
            }
            *part = &part[n..];
        }
        let written = writer.written();
        queues.complete(RX, chain, written)?;
    }
    Ok(Placed::Done)
}

fn put_back<M: GuestMemory>(chains: Vec<Chain>, queues: &mut Queues<'_, M>) {
    for chain in chains.into_iter().rev() {
        queues.put_back(RX, chain);
    }
}

impl<B: NetBackend> VirtioDevice for Net<B> {
    type State = state::V1;

    fn id(&self) -> u32 {
        1
    }
    fn name(&self) -> &'static str {
        "net"
    }
    fn features(&self) -> u64 {
        F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// Section 5.1.4: mac, status, max_virtqueue_pairs, mtu.
    fn config(&self) -> Vec<u8> {
        let mut c = self.mac.to_vec();
        c.extend(u16::from(self.link_up).to_le_bytes());
        c.extend(1u16.to_le_bytes());
        c.extend(self.mtu.to_le_bytes());
        c
    }

    fn source(&self) -> io::Result<Option<OwnedFd>> {
        self.backend.source().map(Some)
    }

    fn interest(&self) -> Interest {
        Interest {
            read: self.link_up && (!self.starved || self.backend.hungry()),
            write: self.link_up && self.backend.blocked(),
        }
    }

    fn activate(&mut self, features: u64) {
        self.features = features;
        for _ in 0..STALE_MAX {
            match self.backend.peek() {
                Ok(Some(_)) => self.backend.consume(),
                _ => break, // an error comes again when there are queues to tell it through
            }
        }
    }

    fn reset(&mut self) {
        self.features = 0;
        self.starved = false;
    }

    fn process<M: GuestMemory>(&mut self, event: Event, queues: &mut Queues<'_, M>) -> Result<(), Fault> {
        if event.kicked(TX) || event.writable {
            self.transmit(queues)?;
        }
        if event.kicked(RX) || event.readable {
            if event.readable
                && self.link_up
                && let Err(e) = self.backend.pump()
            {
                // Frames that came before the end are lost with it, like those on a cut wire.
                self.lose_link(e, queues);
            }
            self.receive(queues)?;
        }
        Ok(())
    }

    fn save(&self) -> state::V1 {
        state::V1 { mac: self.mac, mtu: self.mtu, link_up: self.link_up }
    }

    /// Address and MTU are the guest's; the link is this host's.
    fn restore(&mut self, v1: &state::V1) {
        self.mac = v1.mac;
        self.mtu = v1.mtu;
    }
}

/// State for snapshots, record `("virtio-net", 1)`.
pub mod state {
    /// Version 1.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    pub struct V1 {
        /// Address of the card.
        pub mac: [u8; 6],
        /// Payload of a frame.
        pub mtu: u16,
        /// Whether the guest saw the link up.
        pub link_up: bool,
    }
}

#[cfg(test)]
mod tests;
