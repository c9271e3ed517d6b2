//! Fields: little-endian, text and lists with their length in front.

use crate::Malformed;

/// Writes fields.
#[derive(Default)]
pub(crate) struct Put(pub Vec<u8>);

impl Put {
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    /// At most 4 GiB; what is longer fits no section and is refused there.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.u32(u32::try_from(v.len()).unwrap_or(u32::MAX));
        self.0.extend(v);
        self
    }
    pub fn text(&mut self, v: &str) -> &mut Self {
        self.bytes(v.as_bytes())
    }
    pub fn list<T>(&mut self, all: &[T], mut one: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.u32(u32::try_from(all.len()).unwrap_or(u32::MAX));
        all.iter().for_each(|t| one(self, t));
        self
    }
}

/// Reads fields.
pub(crate) struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (now, later) = self.0.split_at_checked(n).ok_or(Malformed::Short)?;
        self.0 = later;
        Ok(now)
    }
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.raw(N)?.try_into().map_err(|_| Malformed::Short)
    }
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }
    pub fn flag(&mut self, what: &'static str) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            v => Err(Malformed::Value(what, v.into())),
        }
    }
    pub fn bytes(&mut self) -> Result<Vec<u8>, Malformed> {
        let n = self.u32()?;
        Ok(self.raw(usize::try_from(n).map_err(|_| Malformed::Short)?)?.to_vec())
    }
    pub fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?).map_err(|_| Malformed::Text)
    }
    /// A list whose entries take at least a byte each, so that its length cannot exceed what is there.
    pub fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let n = self.u32()? as usize;
        if n > self.0.len() {
            return Err(Malformed::Short);
        }
        // Entries are larger than their bytes: not to take the length's word for it.
        let mut all = Vec::with_capacity(n.min(1024));
        for _ in 0..n {
            all.push(one(self)?);
        }
        Ok(all)
    }
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Long(self.0.len())) }
    }
}
