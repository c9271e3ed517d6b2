//! HTTP/1.1 as far as one request a connection needs it (RFC 9112); messages are taken apart by `httparse`.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Most bytes of a request's or response's head.
const HEAD: usize = 8 << 10;
/// Most bytes of a request's body.
const BODY: usize = 16 << 10;
/// Most header lines.
const HEADERS: usize = 48;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

/// A response: status and JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why a message was not understood: status, and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// To be told to the other side.
    Tell(u16, String),
    /// The other side is gone.
    Gone,
}

fn tell(status: u16, text: &str) -> Fault {
    Fault::Tell(status, text.to_owned())
}

/// Reads by a deadline, whatever the pace of the other side.
struct Reader<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// Reads a piece; `false` at the end.
    fn more(&mut self) -> Result<bool, Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(tell(408, "the message did not come in time"));
        }
        let mut piece = [0; 2048];
        self.stream.set_read_timeout(Some(left)).map_err(|_| Fault::Gone)?;
        let mut stream = self.stream;
        match stream.read(&mut piece) {
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(n > 0)
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(tell(408, "the message did not come in time"))
            }
            Err(_) => Err(Fault::Gone),
        }
    }
}

/// Reads a request.
pub fn read_request(stream: &UnixStream, patience: Duration) -> Result<Request, Fault> {
    let mut r = Reader { stream, deadline: Instant::now() + patience, buffer: Vec::new() };
    loop {
        if let Some((mut request, head, length)) = parse(&r.buffer)? {
            let end = head + length;
            while r.buffer.len() < end {
                if !r.more()? {
                    return Err(Fault::Gone);
                }
            }
            request.body = r.buffer[head..end].to_vec();
            return Ok(request);
        }
        if r.buffer.len() > HEAD {
            return Err(tell(431, "the head of the request is longer than 8 KiB"));
        }
        if !r.more()? {
            return Err(Fault::Gone);
        }
    }
}

/// The head, its length and that of the body, once it is there.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(n)) => n,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(tell(431, "more than 48 header lines")),
        Err(e) => return Err(tell(400, &format!("not HTTP/1.1: {e}"))),
    };
    if head > HEAD {
        return Err(tell(431, "the head of the request is longer than 8 KiB"));
    }
    let mut length = None;
    for h in parsed.headers.iter() {
        if h.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(tell(501, "bodies have a Content-Length here, no Transfer-Encoding"));
        }
        if h.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(h.value).ok().filter(|v| v.bytes().all(|b| b.is_ascii_digit()));
            let n =
                digits.filter(|v| !v.is_empty()).ok_or_else(|| tell(400, "Content-Length is no number"))?;
            // What does not fit is too long, too.
            let n = n.parse().unwrap_or(usize::MAX);
            if length.is_some_and(|l| l != n) {
                return Err(tell(400, "two different Content-Lengths"));
            }
            length = Some(n);
        }
    }
    let length = length.unwrap_or(0);
    if length > BODY {
        return Err(tell(413, "the body is longer than 16 KiB"));
    }
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: parsed.path.unwrap_or_default().to_owned(),
        body: Vec::new(),
    };
    Ok(Some((request, head, length)))
}

/// Takes what still comes, for a moment.
pub fn drain(stream: &UnixStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (mut stream, mut piece, mut left) = (stream, [0; 4096], 1usize << 20);
    while left > 0 {
        match stream.read(&mut piece)? {
            0 => break,
            n => left = left.saturating_sub(n),
        }
    }
    Ok(())
}

/// What a status means (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

/// Writes a response. `allow` lists methods, for 405.
pub fn write_response(
    stream: &UnixStream,
    response: &Response,
    allow: Option<&str>,
    patience: Duration,
) -> std::io::Result<()> {
    let Response { status, body } = response;
    let allow = allow.map(|a| format!("Allow: {a}\r\n")).unwrap_or_default();
    let mut message = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
        reason(*status),
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(body);
    stream.set_write_timeout(Some(patience))?;
    let mut stream = stream;
    stream.write_all(&message)
}

/// Writes a request.
pub fn write_request(stream: &UnixStream, request: &Request) -> std::io::Result<()> {
    let Request { method, path, body } = request;
    let mut message = format!(
        "{method} {path} HTTP/1.1\r\nHost: ulna\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(body);
    let mut stream = stream;
    stream.write_all(&message)
}

/// Reads a response up to the end of the connection.
pub fn read_response(stream: &UnixStream, patience: Duration) -> Result<Response, Fault> {
    const MOST: usize = 4 << 20;
    let mut r = Reader { stream, deadline: Instant::now() + patience, buffer: Vec::new() };
    while r.more()? {
        if r.buffer.len() > MOST {
            return Err(tell(500, "the answer is longer than 4 MiB"));
        }
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    match parsed.parse(&r.buffer) {
        Ok(httparse::Status::Complete(head)) => {
            let (status, body) = (parsed.code.unwrap_or(0), r.buffer[head..].to_vec());
            Ok(Response { status, body })
        }
        Ok(httparse::Status::Partial) => Err(Fault::Gone),
        Err(e) => Err(tell(500, &format!("no HTTP: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(text: &str) -> u16 {
        match parse(text.as_bytes()) {
            Err(Fault::Tell(status, text)) => {
                assert!(!text.contains('\n'));
                status
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn heads() {
        let (r, head, body) = parse(b"PUT /x HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}").unwrap().unwrap();
        assert_eq!((r.method.as_str(), r.path.as_str(), head, body), ("PUT", "/x", 38, 2));
        assert_eq!(parse(b"GET /x HTTP/1.1\r\nA: b\r\n"), Ok(None));
        let with = |h: &str| format!("GET / HTTP/1.1\r\n{h}\r\n\r\n");
        assert_eq!(status("\u{1}\u{2}\u{3}\r\n\r\n"), 400);
        assert_eq!(status(&with("Content-Length: -1")), 400);
        assert_eq!(status(&with("Content-Length:")), 400);
        assert_eq!(status(&with("Content-Length: 1\r\nContent-Length: 2")), 400);
        assert_eq!(status(&with("Content-Length: 16385")), 413);
        assert_eq!(status(&with("Content-Length: 99999999999999999999999")), 413);
        assert_eq!(status(&with("Transfer-Encoding: chunked")), 501);
        assert_eq!(status(&with(&"A: b\r\n".repeat(60))), 431);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..300), good in any::<bool>()) {
            let mut all = if good { b"POST /v1/vm HTTP/1.1\r\nContent-Length: ".to_vec() } else { Vec::new() };
            all.extend(bytes);
            if let Ok(Some((_, head, length))) = parse(&all) {
                prop_assert!(head <= all.len() && length <= BODY);
            }
        }
    }
}
