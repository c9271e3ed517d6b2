//! Connections of a live move: TCP, with mutual TLS where a directory of certificates is given.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufReader, BufWriter, IoSlice, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use ulna_stream::handover::Message;
use ulna_stream::{Error as StreamError, Reader, Section, Writer};

/// Bytes that are gathered before they are sent, and read at once.
const BUFFER: usize = 64 << 10;

enum Link {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Link {
    fn tcp(&self) -> &TcpStream {
        match self {
            Link::Plain(s) => s,
            Link::Client(s) => &s.sock,
            Link::Server(s) => &s.sock,
        }
    }
}

/// One of the two directions. They take turns: a side that writes does not wait for an answer meanwhile.
#[derive(Clone)]
pub struct Half(Arc<Mutex<Link>>);

impl Half {
    fn with<T>(&self, f: impl FnOnce(&mut Link) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Read for Half {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|l| match l {
            Link::Plain(s) => s.read(buf),
            Link::Client(s) => s.read(buf),
            Link::Server(s) => s.read(buf),
        })
    }
}

impl Write for Half {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.with(|l| match l {
            Link::Plain(s) => s.write(buf),
            Link::Client(s) => s.write(buf),
            Link::Server(s) => s.write(buf),
        })
    }
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.with(|l| match l {
            Link::Plain(s) => s.write_vectored(bufs),
            Link::Client(s) => s.write_vectored(bufs),
            Link::Server(s) => s.write_vectored(bufs),
        })
    }
    fn flush(&mut self) -> io::Result<()> {
        self.with(|l| match l {
            Link::Plain(s) => s.flush(),
            Link::Client(s) => s.flush(),
            Link::Server(s) => s.flush(),
        })
    }
}

/// Certificates of one side: `ca.pem` signs both, `cert.pem` and `key.pem` are its own.
#[derive(Clone)]
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads them.
    pub fn load(dir: &Path) -> Result<Tls, String> {
        let path = |name: &str| dir.join(name);
        let wrong = |name: &str, e: &dyn std::fmt::Display| format!("{}: {e}", path(name).display());
        let mut roots = RootCertStore::empty();
        let all = CertificateDer::pem_file_iter(path("ca.pem")).map_err(|e| wrong("ca.pem", &e))?;
        for ca in all {
            roots.add(ca.map_err(|e| wrong("ca.pem", &e))?).map_err(|e| wrong("ca.pem", &e))?;
        }
        if roots.is_empty() {
            return Err(wrong("ca.pem", &"no certificate in it"));
        }
        let chain = || -> Result<Vec<CertificateDer<'static>>, String> {
            let all = CertificateDer::pem_file_iter(path("cert.pem")).map_err(|e| wrong("cert.pem", &e))?;
            all.map(|c| c.map_err(|e| wrong("cert.pem", &e))).collect()
        };
        let key = || PrivateKeyDer::from_pem_file(path("key.pem")).map_err(|e| wrong("key.pem", &e));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let tls = |e: rustls::Error| format!("{}: {e}", dir.display());
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain()?, key()?)
            .map_err(tls)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier.map_err(|e| format!("{}: {e}", dir.display()))?)
            .with_single_cert(chain()?, key()?)
            .map_err(tls)?;
        Ok(Tls { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// A connection: sections in both directions.
pub struct Conn {
    half: Half,
    writer: Writer<BufWriter<Half>>,
    reader: Option<Reader<BufReader<Half>>>,
}

fn settle(s: &TcpStream, patience: Duration) -> io::Result<()> {
    s.set_nonblocking(false)?;
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(patience))?;
    s.set_write_timeout(Some(patience))
}

/// Why there is no connection.
#[derive(Debug)]
pub enum NoConnection {
    /// Nobody listens there.
    Refused(String),
    /// Anything else.
    Other(String),
}

impl std::fmt::Display for NoConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (NoConnection::Refused(why) | NoConnection::Other(why)) = self;
        f.write_str(why)
    }
}

impl Conn {
    fn over(link: Link) -> Result<Conn, StreamError> {
        let half = Half(Arc::new(Mutex::new(link)));
        let writer = Writer::new(BufWriter::with_capacity(BUFFER, half.clone()))?;
        Ok(Conn { half, writer, reader: None })
    }

    /// To the other side at `address`; it may be silent for so long.
    pub fn dial(address: &str, tls: Option<&Tls>, patience: Duration) -> Result<Conn, NoConnection> {
        let other = |e: &dyn std::fmt::Display| NoConnection::Other(format!("{address}: {e}"));
        let mut last = other(&"no such address");
        for at in address.to_socket_addrs().map_err(|e| other(&e))? {
            let stream = match TcpStream::connect_timeout(&at, patience) {
                Ok(s) => s,
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    last = NoConnection::Refused(format!("{address}: nobody listens there"));
                    continue;
                }
                Err(e) => {
                    last = other(&e);
                    continue;
                }
            };
            settle(&stream, patience).map_err(|e| other(&e))?;
            let link = match tls {
                None => Link::Plain(stream),
                Some(tls) => {
                    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                    let name = ServerName::try_from(name).map_err(|e| other(&e))?;
                    let mut c = ClientConnection::new(tls.client.clone(), name).map_err(|e| other(&e))?;
                    let mut stream = stream;
                    while c.is_handshaking() {
                        c.complete_io(&mut stream).map_err(|e| other(&format!("TLS: {e}")))?;
                    }
                    Link::Client(Box::new(StreamOwned::new(c, stream)))
                }
            };
            return Conn::over(link).map_err(|e| other(&e));
        }
        Err(last)
    }

    /// From somebody who came.
    pub fn welcome(stream: TcpStream, tls: Option<&Tls>, patience: Duration) -> Result<Conn, String> {
        settle(&stream, patience).map_err(|e| e.to_string())?;
        let link = match tls {
            None => Link::Plain(stream),
            Some(tls) => {
                let mut c = ServerConnection::new(tls.server.clone()).map_err(|e| format!("TLS: {e}"))?;
                let mut stream = stream;
                while c.is_handshaking() {
                    c.complete_io(&mut stream).map_err(|e| format!("TLS: {e}"))?;
                }
                Link::Server(Box::new(StreamOwned::new(c, stream)))
            }
        };
        Conn::over(link).map_err(|e| e.to_string())
    }

    /// For what is sent.
    pub fn writer(&mut self) -> &mut Writer<BufWriter<Half>> {
        &mut self.writer
    }

    /// For what comes; the first use waits for the other side's first bytes.
    pub fn reader(&mut self) -> Result<&mut Reader<BufReader<Half>>, StreamError> {
        if self.reader.is_none() {
            self.reader = Some(Reader::new(BufReader::with_capacity(BUFFER, self.half.clone()))?);
        }
        self.reader.as_mut().ok_or_else(|| io::Error::other("no reader").into())
    }

    /// Says something, now.
    pub fn say(&mut self, m: Message) -> Result<(), StreamError> {
        self.writer.section(&Section::Message(m))?;
        self.writer.flush()
    }

    /// Waits for something to be said.
    pub fn hear(&mut self) -> Result<Message, StreamError> {
        match self.reader()?.next_section()? {
            Some(Section::Message(m)) => Ok(m),
            Some(s) => Err(io::Error::other(format!("{} where a message belongs", s.kind())).into()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// How long the other side may be silent from now on.
    pub fn be_patient(&self, patience: Duration) -> io::Result<()> {
        self.half.with(|l| {
            l.tcp().set_read_timeout(Some(patience))?;
            l.tcp().set_write_timeout(Some(patience))
        })
    }

    /// A handle by which another thread can end everything that waits here.
    pub fn cutter(&self) -> io::Result<TcpStream> {
        self.half.with(|l| l.tcp().try_clone())
    }
}

/// Is this the end of a connection, rather than silence?
pub fn is_end(e: &StreamError) -> bool {
    match e {
        StreamError::Io(e) => !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut),
        StreamError::Truncated { .. } | StreamError::Magic(_) => true,
        _ => false,
    }
}

/// What went wrong with a connection, in words.
pub fn words(e: &StreamError) -> String {
    match e {
        StreamError::Io(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            "the other side is silent".into()
        }
        StreamError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "the other side hung up".into(),
        StreamError::Magic([0, 0, 0, 0, 0, 0, 0, 0]) => "the other side hung up".into(),
        StreamError::Io(e) => format!("the connection broke: {e}"),
        e => e.to_string(),
    }
}
