//! What a worker owes an answer to. A lane answers in the order in which it is
//! asked, and an answer that nobody asked for is against the protocol: so
//! answers cannot pile up, and none is taken for another's.

use std::collections::{HashMap, VecDeque};

use menagerie_protocol::message::{LaneId, ToSupervisor};
use tokio::sync::oneshot;

/// What a lane was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Load,
    Finish,
    Resume,
    Unload,
}

impl Asked {
    /// The question that a message answers, and the lane that was asked.
    pub(crate) const fn by(message: &ToSupervisor) -> Option<(Self, LaneId)> {
        match message {
            ToSupervisor::Loaded { lane, .. } | ToSupervisor::LoadFailed { lane, .. } => {
                Some((Self::Load, *lane))
            }
            ToSupervisor::Finished { lane, .. } => Some((Self::Finish, *lane)),
            ToSupervisor::Resumed { lane, .. } => Some((Self::Resume, *lane)),
            ToSupervisor::Unloaded { lane } => Some((Self::Unload, *lane)),
            _ => None,
        }
    }
}

/// The open questions of one process.
#[derive(Debug, Default)]
pub(crate) struct Questions(HashMap<LaneId, VecDeque<(Asked, oneshot::Sender<ToSupervisor>)>>);

/// An answer that nobody asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unasked;

impl Questions {
    /// Takes note of a question; the answer comes out at the other end.
    pub(crate) fn ask(&mut self, lane: LaneId, asked: Asked) -> oneshot::Receiver<ToSupervisor> {
        let (sender, receiver) = oneshot::channel();
        self.0.entry(lane).or_default().push_back((asked, sender));
        receiver
    }

    /// The last question could not be sent after all.
    pub(crate) fn take_back(&mut self, lane: LaneId) {
        if let Some(open) = self.0.get_mut(&lane) {
            open.pop_back();
            if open.is_empty() {
                self.0.remove(&lane);
            }
        }
    }

    /// Hands an answer to whoever waits for it, if they still do.
    pub(crate) fn answer(
        &mut self,
        lane: LaneId,
        asked: Asked,
        message: ToSupervisor,
    ) -> Result<(), Unasked> {
        let open = self.0.get_mut(&lane).ok_or(Unasked)?;
        if open.front().is_none_or(|(first, _)| *first != asked) {
            return Err(Unasked);
        }
        if let Some((_, sender)) = open.pop_front() {
            drop(sender.send(message));
        }
        if open.is_empty() {
            self.0.remove(&lane);
        }
        Ok(())
    }

    /// Nothing is answered any more.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unloaded(lane: LaneId) -> ToSupervisor {
        ToSupervisor::Unloaded { lane }
    }

    #[test]
    fn questions_are_answered_in_their_order() {
        let mut questions = Questions::default();
        let mut first = questions.ask(1, Asked::Resume);
        let mut second = questions.ask(1, Asked::Unload);
        assert_eq!(questions.answer(1, Asked::Unload, unloaded(1)), Err(Unasked));
        let resumed = ToSupervisor::Resumed { lane: 1, outcome: Ok(()) };
        questions.answer(1, Asked::Resume, resumed.clone()).unwrap();
        questions.answer(1, Asked::Unload, unloaded(1)).unwrap();
        assert_eq!(first.try_recv().unwrap(), resumed);
        assert_eq!(second.try_recv().unwrap(), unloaded(1));
        assert!(questions.0.is_empty());
    }

    #[test]
    fn questions_that_nobody_asked_have_no_answer() {
        let mut questions = Questions::default();
        assert_eq!(questions.answer(1, Asked::Unload, unloaded(1)), Err(Unasked));
        drop(questions.ask(1, Asked::Unload));
        assert_eq!(questions.answer(2, Asked::Unload, unloaded(2)), Err(Unasked));
        // Whoever asked may have gone: the answer is one all the same, once.
        questions.answer(1, Asked::Unload, unloaded(1)).unwrap();
        assert_eq!(questions.answer(1, Asked::Unload, unloaded(1)), Err(Unasked));
        let _waits = questions.ask(1, Asked::Finish);
        questions.take_back(1);
        assert!(questions.0.is_empty());
    }
}
