//! The turns: each contestant is measured shortly, in rotation, so that all of
//! them meet the same machine; ratios are taken within a turn.

use crate::peers::iceoryx::Iceoryx;
use crate::peers::ipc::Ipc;
use crate::peers::multiprocessing::Multiprocessing;
use crate::peers::ours::Ours;
use crate::peers::rpc::Rpc;
use crate::peers::spin::Spin;
use crate::peers::stream::Stream;
use crate::peers::{Peer, What};
use crate::report::{Figure, Report, Row, quantile};
use crate::{Options, Outcome};

/// Calls between two looks at the clock.
const BATCH: u32 = 32;
const LEN: usize = 1 << 20;

/// What one turn of a contestant has found.
#[derive(Clone, Copy, Debug)]
struct Found {
    p50: f64,
    p99: f64,
    echo: Option<f64>,
}

impl Found {
    const fn of(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::NullP50 => Some(self.p50),
            Figure::NullP99 => Some(self.p99),
            Figure::EchoP50 => self.echo,
        }
    }
}

fn turn(peer: &mut dyn Peer, quick: bool, data: &[u8]) -> Outcome<Found> {
    peer.awake(true)?;
    peer.times(What::Null, 1, 200)?;
    let batches = peer.times(What::Null, if quick { 30 } else { 60 }, BATCH)?;
    let single = peer.times(What::Null, if quick { 1000 } else { 3000 }, 1)?;
    let mut echo = None;
    if peer.echoes() {
        peer.times(What::Echo(data), 1, 3)?;
        let times = peer.times(What::Echo(data), if quick { 15 } else { 30 }, 1)?;
        echo = Some(quantile(&times, 0.5));
    }
    peer.awake(false)?;
    Ok(Found { p50: quantile(&batches, 0.5), p99: quantile(&single, 0.99), echo })
}

pub(crate) fn run(options: &Options) -> Outcome<Report> {
    let data = vec![0x5a_u8; LEN];
    let mut ours = Ours::start(&options.worker_dir, &options.bundles)?;
    type Start = fn() -> Outcome<Box<dyn Peer>>;
    let starts: [(&str, Option<&str>, Start); 6] = [
        ("spinning shared memory (the floor)", None, || Ok(Box::new(Spin::start()?))),
        ("iceoryx2 request-response, busy poll", Some("iceoryx2"), || {
            Ok(Box::new(Iceoryx::start()?))
        }),
        ("ipc-channel", Some("ipc-channel"), || Ok(Box::new(Ipc::start()?))),
        ("tarpc over a Unix socket", Some("tarpc"), || Ok(Box::new(Rpc::start()?))),
        ("tokio UnixStream with bincode", Some("tokio"), || Ok(Box::new(Stream::start()?))),
        ("Python multiprocessing, pipe", None, || Ok(Box::new(Multiprocessing::start()?))),
    ];
    let mut report = Report::new(options.quick);
    let mut peers = Vec::new();
    for (name, package, start) in starts {
        match start() {
            Ok(mut peer) => {
                peer.awake(false)?;
                peers.push((name, package, peer, Vec::new()));
            }
            Err(error) => report.left_out.push(format!("{name}: {error}")),
        }
    }
    let turns = if options.quick { 5 } else { 15 };
    for number in 1..=turns {
        eprintln!("menagerie-peers: turn {number} of {turns}");
        for (_, _, peer, found) in &mut peers {
            // Ours before each of them: the two of a ratio are neighbours.
            let mine = turn(&mut ours, options.quick, &data)?;
            found.push((turn(peer.as_mut(), options.quick, &data)?, mine));
        }
    }
    for figure in [Figure::NullP50, Figure::NullP99, Figure::EchoP50] {
        for (name, package, _, found) in &peers {
            let pairs: Vec<(f64, f64)> = found
                .iter()
                .filter_map(|(theirs, mine)| theirs.of(figure).zip(mine.of(figure)))
                .collect();
            if !pairs.is_empty() {
                report.rows.push(Row::new(figure, name, *package, &pairs));
            }
        }
    }
    Ok(report)
}
