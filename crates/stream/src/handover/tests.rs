//! A model of both sides with a network that loses, delays and cuts, and processes that are killed.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// The source sends the last of the state.
    SendState,
    /// The oldest message to the destination arrives.
    ToDestination,
    /// The oldest message to the source arrives.
    ToSource,
    /// The connection is cut; what was sent before by either side may be lost from here on.
    Cut,
    /// The source, in doubt and without a connection, asks on a new one; the answer may be lost.
    Ask { answer_lost: bool },
    /// The destination's patience ends.
    GiveUp,
    /// The destination's process is killed.
    KillDestination,
    /// The source's process is killed.
    KillSource,
}

#[derive(Debug)]
struct World {
    source: Source,
    destination: Destination,
    source_lives: bool,
    destination_lives: bool,
    connected: bool,
    to_destination: VecDeque<Message>,
    to_source: VecDeque<Message>,
    sent_state: bool,
    /// The destination ever ran the guest.
    ran_there: bool,
    /// Faults so far.
    faults: u32,
}

impl World {
    fn new() -> World {
        World {
            source: Source::Owner,
            destination: Destination::Empty,
            source_lives: true,
            destination_lives: true,
            connected: true,
            to_destination: VecDeque::new(),
            to_source: VecDeque::new(),
            sent_state: false,
            ran_there: false,
            faults: 0,
        }
    }

    fn step(&mut self, e: Event) {
        match e {
            Event::SendState if self.source_lives && !self.sent_state => {
                self.sent_state = true;
                self.to_destination.push_back(Message::Hello(1));
            }
            Event::ToDestination if self.connected && self.destination_lives => {
                match self.to_destination.pop_front() {
                    // Stands for all of the state.
                    Some(Message::Hello(_)) => {
                        self.destination.loaded();
                        if self.destination == Destination::Ready {
                            self.to_source.push_back(Message::Loaded);
                        }
                    }
                    Some(Message::Go) => {
                        let answer = self.destination.go();
                        self.ran_there |= self.destination.may_run();
                        self.to_source.push_back(answer);
                    }
                    _ => {}
                }
            }
            // What a process wrote before it was killed still arrives.
            Event::ToSource if self.connected && self.source_lives => match self.to_source.pop_front() {
                Some(Message::Loaded) => {
                    self.source.go();
                    self.to_destination.push_back(Message::Go);
                }
                Some(Message::Running) => self.source.found(Finding::Running),
                Some(Message::Abandoned) => self.source.found(Finding::Abandoned),
                _ => {}
            },
            Event::Cut if self.connected => {
                self.faults += 1;
                self.connected = false;
                self.to_source.clear();
                self.to_destination.clear();
            }
            Event::Ask { answer_lost } if self.source_lives && self.source == Source::Doubt => {
                // The source asks once the old connection is at its end: cut, or closed by a dead destination.
                if self.connected && (self.destination_lives || !self.to_source.is_empty()) {
                    return;
                }
                if !self.destination_lives {
                    self.source.found(Finding::Gone);
                    return;
                }
                let answer = self.destination.ask();
                if !answer_lost {
                    self.source.found(match answer {
                        Message::Running => Finding::Running,
                        _ => Finding::Abandoned,
                    });
                }
            }
            Event::GiveUp if self.destination_lives => self.destination.give_up(),
            Event::KillDestination if self.destination_lives => {
                self.faults += 1;
                self.destination_lives = false;
            }
            Event::KillSource if self.source_lives => {
                self.faults += 1;
                self.source_lives = false;
            }
            _ => {}
        }
    }

    fn running(&self) -> (bool, bool) {
        (self.source_lives && self.source.may_run(), self.destination_lives && self.destination.may_run())
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::SendState),
        6 => Just(Event::ToDestination),
        6 => Just(Event::ToSource),
        1 => Just(Event::Cut),
        3 => any::<bool>().prop_map(|answer_lost| Event::Ask { answer_lost }),
        1 => Just(Event::GiveUp),
        1 => Just(Event::KillDestination),
        1 => Just(Event::KillSource),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn never_do_both_run_and_with_one_fault_one_does(events in prop::collection::vec(event(), 0..40)) {
        let mut w = World::new();
        for e in events {
            w.step(e);
            let (s, d) = w.running();
            prop_assert!(!(s && d), "both run after {e:?}: {w:?}");
            // With one fault, a source that has the guest again has it because the other side never ran it.
            if w.faults <= 1 && s {
                prop_assert!(!w.ran_there, "the guest runs again from an old state: {w:?}");
            }
        }
        // Left alone the world comes to rest: everything arrives that can, then the source asks.
        for _ in 0..8 {
            w.step(Event::SendState);
            w.step(Event::ToDestination);
            w.step(Event::ToSource);
        }
        w.step(Event::Ask { answer_lost: false });
        let (s, d) = w.running();
        prop_assert!(!(s && d));
        if w.source_lives && w.destination_lives {
            prop_assert!(s || d, "nobody runs: {w:?}");
        }
        if w.source_lives && !w.destination_lives && w.faults == 1 && !w.ran_there {
            prop_assert!(s, "the destination died before it ran, and the source stands: {w:?}");
        }
    }
}

#[test]
fn the_undisturbed_move() {
    let mut w = World::new();
    for e in [Event::SendState, Event::ToDestination, Event::ToSource] {
        w.step(e);
        assert_eq!(w.running(), (w.source == Source::Owner, false));
    }
    assert_eq!(w.source, Source::Doubt);
    w.step(Event::ToDestination);
    assert_eq!(w.running(), (false, true));
    w.step(Event::ToSource);
    assert_eq!((w.source, w.destination), (Source::Released, Destination::Owner));
}

#[test]
fn who_asked_first_decides() {
    let mut d = Destination::Ready;
    assert_eq!(d.ask(), Message::Abandoned);
    assert_eq!((d.go(), d.may_run()), (Message::Abandoned, false));
    let mut d = Destination::Ready;
    assert_eq!((d.go(), d.ask(), d.may_run()), (Message::Running, Message::Running, true));
    d.give_up();
    assert!(d.may_run());
}
