//! The rules of the contract, and the tests that hold each.

/// Where a rule is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// In each language: one of the tests for each of them.
    Languages,
    /// In the supervisor or in `protocol`, in one place for all languages.
    Across,
}

use Scope::{Across, Languages};

/// A rule, and the tests that hold it: each of its clauses has one. Without them it is
/// not kept, whatever other tests have its number.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) about: &'static str,
    pub(crate) tests: &'static [&'static str],
}

pub(crate) const fn rule(
    name: &'static str,
    scope: Scope,
    about: &'static str,
    tests: &'static [&'static str],
) -> Rule {
    Rule { name, scope, about, tests }
}

pub(crate) const RULES: [Rule; 38] = [
    rule(
        "L1",
        Languages,
        "a bundle goes to the loader of its manifest's name",
        &["l1_the_manifest_names_the_loader_to_the_letter"],
    ),
    rule(
        "L2",
        Languages,
        "the language is a typed claim, shown in the status",
        &["l2_the_status_shows_the_loaders_language"],
    ),
    rule(
        "L3",
        Languages,
        "hot reload only where it is enabled and supported",
        &["l3_no_reload_where_the_configuration_forbids_it"],
    ),
    rule(
        "L4",
        Languages,
        "sources: a folder, code, bytes",
        &["l4_a_source_that_the_loader_does_not_take_is_refused"],
    ),
    rule(
        "L5",
        Languages,
        "a load that fails leaves nothing behind",
        &[
            "l5_what_does_not_fit_the_manifest_leaves_nothing",
            "l5_c_libraries_that_are_no_bundles",
            "l5_nothing_of_a_failed_load_stays_behind",
            "l5_a_failed_load_leaves_nothing",
            "l5_an_init_that_throws_fails_with_its_error",
            "l5_an_exception_in_a_constructor_fails_the_load",
        ],
    ),
    rule(
        "L6",
        Languages,
        "a reload swaps in one step, or changes nothing",
        &[
            "l6_reload_hands_the_state_over",
            "l6_reloads_under_a_load_of_calls_lose_none",
            "l6_a_reload_may_fail_at_each_step_under_load",
        ],
    ),
    rule(
        "L7",
        Languages,
        "no call reaches what is unloaded",
        &["l7_an_unloaded_bundle_is_stale", "l7_a_call_in_flight_ends_before_its_code_is_freed"],
    ),
    rule(
        "L8",
        Languages,
        "what is unloaded is freed",
        &[
            "l8_no_rust_library_stays_mapped",
            "l8_no_c_library_stays_mapped",
            "l8_pythons_modules_go_with_their_bundle",
            "l8_an_unloaded_state_is_freed",
            "l8_an_unloaded_engine_is_freed",
            "l8_dotnet_context_is_collected",
        ],
    ),
    rule("L9", Languages, "rounds of loading leave memory flat", &["l9_memory_stays_where_it_is"]),
    rule(
        "B1",
        Across,
        "manifests",
        &[
            "b1_the_manifest_of_the_design_is_read_whole",
            "b1_what_is_wrong_in_a_manifest_is_named_by_file_key_and_line",
            "b1_any_text_is_read_or_refused",
            "b1_an_id_that_disagrees_is_tampering",
        ],
    ),
    rule(
        "B2",
        Across,
        "the artifact lies in the bundle's folder",
        &[
            "b2_files_that_are_missing_or_outside_the_bundle",
            "b2_what_counts_is_where_a_file_really_is",
        ],
    ),
    rule(
        "B3",
        Languages,
        "function names are snake_case",
        &["b3_names_are_snake_case_in_every_language"],
    ),
    rule("C1", Languages, "values keep their value", &["c1_values_keep_their_value"]),
    rule("C2", Languages, "bytes of any size", &["c2_bytes_of_every_size"]),
    rule(
        "C3",
        Languages,
        "one outcome for each call",
        &["c3_the_guests_own_error", "c3_what_is_not_there_or_does_not_fit"],
    ),
    rule(
        "C4",
        Languages,
        "calls of a worker that died are sent again, or fail",
        &["c4_a_call_that_nobody_began_outlives_its_worker"],
    ),
    rule(
        "C5",
        Languages,
        "calls of bundles, declared and without cycles",
        &["c5_a_bundle_calls_another", "c5_a_chain_that_comes_back_is_a_cycle_at_once"],
    ),
    rule("C6", Languages, "a slow call delays nobody else", &["c6_a_slow_bundle_delays_nobody"]),
    rule(
        "C7",
        Languages,
        "cancelled calls and bounded queues",
        &[
            "c7_a_full_queue_refuses_and_a_dropped_call_makes_room",
            "c7_calls_beyond_the_bound_are_refused_in_py",
            "c7_calls_beyond_the_bound_are_refused_in_js",
        ],
    ),
    rule(
        "R1",
        Across,
        "look-up by version",
        &[
            "r1_the_newest_compatible_version_serves_and_a_named_bundle_where_asked",
            "r1_the_newest_version_wins_and_ties_go_by_name",
            "r1_compatibility_is_strict_relaxed_or_yolo",
        ],
    ),
    rule(
        "R2",
        Across,
        "handles and generations",
        &["r2_a_handle_outlives_reloads_and_restarts_and_no_unload"],
    ),
    rule(
        "R3",
        Across,
        "load order, cycles, what is missing",
        &[
            "r3_load_order_follows_dependencies",
            "r3_a_ring_of_dependencies_is_refused_with_its_names",
            "r3_what_is_missing_is_named",
        ],
    ),
    rule(
        "R4",
        Across,
        "unloading what is in use, cascades, re-initialisation",
        &[
            "r4_a_bundle_in_use_is_unloaded_by_a_cascade_only",
            "r4_a_reload_initialises_the_dependents_again_that_ask_for_it",
        ],
    ),
    rule(
        "R5",
        Across,
        "signatures",
        &[
            "r5_a_signed_bundle_is_loaded_where_signatures_are_required",
            "r5_an_unsigned_bundle_is_refused",
            "r5_a_changed_byte_is_refused",
            "r5_a_foreign_key_is_refused",
            "r5_after_the_first_use_another_key_is_refused",
            "r5_with_warn_it_is_told_and_loaded",
        ],
    ),
    rule(
        "S1",
        Across,
        "a worker's states, and a transition between each two",
        &[
            "s1_every_transition_of_a_life_is_an_event",
            "s1_the_whole_sequence_from_start_to_stop",
            "s1_whatever_happens_there_is_one_process_at_most_and_none_is_forgotten",
        ],
    ),
    rule(
        "S2",
        Across,
        "every death is noticed and reported",
        &[
            "s2_an_exit_in_a_call_is_a_death_and_the_call_is_named",
            "s2_a_crash_report_has_the_use_of_resources_and_the_languages_own_words",
            "s2_the_last_words_of_a_worker_are_in_the_report",
            "s2_random_bytes_from_sixty_seeds",
        ],
    ),
    rule(
        "S3",
        Across,
        "restarts, their delays, quarantine",
        &[
            "s3_backoff_doubles",
            "s3_backoff_has_jitter",
            "s3_health_resets_the_backoff",
            "s3_quarantine_after_more_than_five_restarts_in_sixty_seconds",
            "s3_a_program_that_stays_away_quarantines_its_worker_until_a_trial_start",
            "s3_a_requested_stop_is_not_restarted",
            "s3_a_policy_whose_limit_can_never_be_reached_is_refused",
            "s3_the_numbers_of_restarts_are_the_designs",
        ],
    ),
    rule(
        "S4",
        Across,
        "what was loaded is loaded again, providers first",
        &["s4_after_a_crash_providers_are_back_before_their_dependents"],
    ),
    rule(
        "S5",
        Across,
        "blame, isolation, quarantine of a bundle",
        &[
            "s5_with_isolation_auto_the_second_death_moves_it_to_a_worker_of_its_own",
            "s5_third_death_quarantines_and_the_others_go_on",
            "s5_suspects_are_parted_and_the_innocent_is_not_quarantined",
            "s5_the_numbers_of_blame_are_the_designs",
        ],
    ),
    rule(
        "S6",
        Across,
        "deadlines, heartbeats, orderly ends",
        &[
            "s6_a_deadline_is_the_configurations_or_the_contracts_or_none",
            "s6_what_a_guest_calls_has_the_time_of_its_own_call",
            "s6_a_soft_stop_spares_the_worker",
            "s6_what_does_not_stop_softly_costs_the_worker",
            "s6_three_missed_warn_once_and_fifteen_give_up",
            "s6_a_stopped_process_is_told_by_its_heartbeats",
            "s6_a_worker_that_never_says_hello",
            "s6_a_shutdown_behind_a_load_that_hangs",
            "s6_the_times_are_the_designs",
        ],
    ),
    rule(
        "S7",
        Across,
        "nothing is left behind",
        &[
            "s7_no_worker_outlives_a_host_that_is_killed",
            "s7_descriptors_threads_and_mappings_are_flat_after_many_restarts",
            "s7_no_file_of_any_language_is_left",
            "s7_what_a_worker_has_started_ends_with_it",
        ],
    ),
    rule(
        "S8",
        Across,
        "standbys and rolling restarts",
        &[
            "s8_standbys_of_every_language_take_over",
            "s8_a_standby_takes_over_and_is_replaced",
            "s8_a_rolling_restart_under_load_fails_no_call",
        ],
    ),
    rule(
        "S9",
        Across,
        "isolation, replicas, idle stop, recycling",
        &[
            "s9_shared_is_one_worker_for_a_loader",
            "s9_bundle_is_a_worker_for_each_and_one_may_be_excepted",
            "s9_replicas_all_serve_in_turn",
            "s9_a_worker_that_nobody_calls_stops_and_the_next_call_starts_it",
            "s9_a_worker_is_recycled_after_so_many_calls_and_no_call_fails",
            "s9_a_worker_is_recycled_by_its_memory",
            "s9_what_costs_something_is_off_by_default",
        ],
    ),
    rule(
        "S10",
        Across,
        "everything is an event",
        &[
            "s10_what_is_emitted_is_streamed_kept_and_logged_in_one_order",
            "s10_a_slow_receiver_holds_up_nobody_and_is_told_what_it_missed",
        ],
    ),
    rule(
        "G",
        Across,
        "the status service and the program",
        &[
            "g_openapi_is_what_the_service_does",
            "g_json_is_as_documented",
            "g_only_owner_and_root_may_act_unless_configured",
            "g_metrics_are_well_formed_and_true",
            "g_followers_see_what_comes",
            "g_usage_is_2",
            "g_with_no_supervisor_it_is_3_and_one_line",
        ],
    ),
    rule(
        "P1",
        Across,
        "limits of every worker",
        &[
            "p1_a_worker_gains_no_privileges_and_has_a_session_of_its_own",
            "p1_a_worker_has_no_descriptor_of_its_host_but_the_three",
            "p1_the_environment_is_an_allow_list",
            "p1_a_workers_limits_are_those_of_the_configuration_and_it_leaves_no_core",
            "p1_a_worker_of_any_language_is_limited",
        ],
    ),
    rule(
        "P2",
        Across,
        "a strict sandbox",
        &[
            "p2_a_bundle_reads_and_writes_nothing_but_its_own",
            "p2_a_bundle_reaches_no_other_process",
            "p2_a_bundle_executes_no_program",
            "p2_no_socket_of_a_worker_reaches_another_program",
            "p2_links_of_a_copied_bundle_lead_out_only_to_what_is_granted",
            "p2_a_lua_bundle_reaches_nothing_but_its_own",
            "p2_a_kernel_without_landlock_is_said_and_nothing_is_loaded",
            "p2_what_an_older_kernel_lacks_is_said",
            "p2_a_worker_that_is_not_in_its_sandbox_gets_no_bundle",
        ],
    ),
    rule(
        "P3",
        Across,
        "what a bundle wants and gets",
        &[
            "p3_a_bundle_has_the_network_if_it_wants_it_and_is_granted_it",
            "p3_a_bundle_has_the_paths_that_it_wants_below_those_that_are_granted",
            "p3_a_bundle_changes_what_it_may_write",
            "p3_a_reload_that_would_change_a_bundles_rights_is_refused",
        ],
    ),
];
