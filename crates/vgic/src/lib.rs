//! GICv2, GICv3, ITS and timer comparators as pure state machines.
