//! Profiles against profiles.
