//! Lines to a file.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use crate::{CallRecord, Tracer, line};

/// Writes a line for each call: seconds, thread, and [`line()`].
pub struct Log<W>(Mutex<Option<W>>);

impl<W: Write> Log<W> {
    /// To this.
    pub fn new(to: W) -> Log<W> {
        Log(Mutex::new(Some(to)))
    }
}

impl<W: Write + Send> Tracer for Log<W> {
    fn call(&self, r: &CallRecord<'_>) {
        let text =
            format!("{:>4}.{:06} {:>6} {}\n", r.when.as_secs(), r.when.subsec_micros(), r.thread, line(r));
        let mut to = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that takes no more lines ends the trace and not the program.
        if to.as_mut().is_some_and(|w| w.write_all(text.as_bytes()).is_err()) {
            *to = None;
        }
    }
}
