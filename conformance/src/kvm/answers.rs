//! Lines as the probe writes them.

use serde_json::{Map, Value, json};

/// The lines of a replay, in order.
#[derive(Default)]
pub struct Answers {
    /// One object a line.
    pub lines: Vec<Value>,
}

/// A number as the recordings write values: hex without leading zeros.
pub fn hex(v: u64) -> Value {
    Value::String(format!("{v:#x}"))
}

impl Answers {
    /// Adds a line.
    pub fn line(&mut self, v: Value) {
        self.lines.push(v);
    }

    /// Adds a line of kind `k` with these fields.
    pub fn fields(&mut self, k: &str, fields: Map<String, Value>) {
        let mut line = Map::new();
        line.insert("k".into(), k.into());
        line.extend(fields);
        self.lines.push(Value::Object(line));
    }

    /// A step of a sequence.
    pub fn act(&mut self, seq: &str, op: impl AsRef<str>, ret: impl Into<i64>) {
        self.line(json!({"k": "act", "seq": seq, "op": op.as_ref(), "ret": ret.into()}));
    }

    /// A step with a value.
    pub fn act_value(&mut self, seq: &str, op: impl AsRef<str>, ret: impl Into<i64>, v: Value) {
        self.line(json!({"k": "act", "seq": seq, "op": op.as_ref(), "ret": ret.into(), "v": v}));
    }

    /// A call before VCPU_INIT.
    pub fn early(&mut self, op: &str, ret: impl Into<i64>) {
        self.line(json!({"k": "early", "op": op, "ret": ret.into()}));
    }
}
