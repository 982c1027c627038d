//! Results that are no values: the caller gets a typed failure, nothing is
//! allocated for what was only announced, and nobody else notices.

use std::collections::HashMap;

use menagerie_supervisor::{ByteBuf, Failure};
use rmpv::Value;
use serde::de::DeserializeOwned;

use super::{Stage, faults, hasty_once};
use crate::support::run;

/// The first call's result does not decode as `R`.
async fn does_not_fit<R: DeserializeOwned>(fault: &str) {
    let stage = Stage::set(hasty_once(fault)).await;
    let probe = stage.load().await;
    let outcome = probe.call::<_, R>("inc", (1,)).await.map(drop);
    let Err(Failure::BadValue { message }) = &outcome else { panic!("{fault}: {outcome:?}") };
    assert!(message.starts_with("the result does not fit"), "{message}");
    // The worker itself has kept the protocol.
    assert!(stage.supervisor.crashes().is_empty());
    stage.supervisor.restart("native").await.unwrap();
    stage.serves_again().await;
    stage.end().await;
}

async fn is_no_value(fault: &'static str, _: &'static str) {
    does_not_fit::<Value>(fault).await;
    does_not_fit::<i64>(fault).await;
}

faults! { is_no_value:
    c1_a_result_of_no_bytes("ring:value-empty", "");
    c1_a_result_that_ends_in_the_middle("ring:value-cut", "");
    c1_a_result_of_a_kind_that_does_not_exist("ring:value-reserved", "");
    c1_a_list_of_4_billion_items("ring:value-huge-list", "");
    c1_bytes_of_4_gib("ring:value-huge-bytes", "");
    c1_a_text_of_4_gib("ring:value-huge-text", "");
    c1_a_map_of_4_billion_items("ring:value-huge-map", "");
    c1_a_result_that_is_nested_too_deep("ring:value-deep", "");
}

/// What is announced is the very type that the caller expects.
#[test]
fn c1_a_host_that_expects_what_is_announced() {
    run(async {
        does_not_fit::<Vec<i64>>("ring:value-huge-list").await;
        does_not_fit::<Vec<[u64; 4]>>("ring:value-huge-list").await;
        does_not_fit::<HashMap<String, Vec<u8>>>("ring:value-huge-map").await;
        does_not_fit::<ByteBuf>("ring:value-huge-bytes").await;
        does_not_fit::<String>("ring:value-huge-text").await;
        does_not_fit::<Vec<Vec<Vec<Value>>>>("ring:value-deep").await;
    });
}

#[test]
fn c1_a_text_that_is_no_utf8() {
    run(async {
        does_not_fit::<String>("ring:value-no-text").await;
        does_not_fit::<i64>("ring:value-no-text").await;
    });
}
