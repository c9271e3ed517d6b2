//! Host profiles: data files that say which hardware ulna plays.
