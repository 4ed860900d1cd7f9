//! A volume's life on a real node: staged, published, measured and taken down, also when
//! steps fail, when calls come in the wrong order, and after a reboot.
//!
//! What a reader gets wrong: the functions of `inside` run in the lab's node, each in a
//! process of its own; outside is only what needs the node's plug or the cluster's hand.

// A test says by a panic that something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

#[path = "node/damage.rs"]
mod damage;
#[path = "node/driver.rs"]
mod driver;
#[path = "node/expand.rs"]
mod expand;
#[path = "node/failures.rs"]
mod failures;
#[path = "node/handles.rs"]
mod handles;
#[path = "node/identity.rs"]
mod identity;
#[path = "node/life.rs"]
mod life;
#[path = "node/module.rs"]
mod module;
#[path = "node/refusals.rs"]
mod refusals;
#[path = "node/restored.rs"]
mod restored;
#[path = "node/shutdown.rs"]
mod shutdown;
#[path = "node/takeover.rs"]
mod takeover;

use std::time::{Duration, Instant};

use support::inside::{Inside, runs_inside};
use support::lab::{Lab, LabSpec};

fn lab() -> &'static Lab {
    Lab::shared(LabSpec { clusters: 1, nodes: 1 })
}

fn inside() -> Inside<'static> {
    Inside::new(lab()).of(lab().cluster(0)).with("LAB_DIR", lab().dir.to_str().unwrap())
}

runs_inside!(
    inside:
    life::ext4_from_stage_to_unstage,
    life::xfs_grows_with_its_image,
    life::a_raw_device_is_a_file_of_the_node,
    life::one_writer_has_one_place,
    life::one_reader_has_one_place,
    life::either_mapper_takes_down_what_the_other_has_staged,
    expand::an_ext4_grows_in_use,
    expand::an_xfs_grows_in_use,
    expand::a_raw_device_grows_in_use,
    expand::a_file_system_grows_under_a_writer,
    expand::what_is_read_only_has_nothing_to_grow,
    expand::the_kernel_is_told_where_it_does_not_hear,
    expand::what_cannot_grow_says_why,
    damage::who_looks_without_the_journal_changes_nothing,
    damage::a_too_new_file_system_is_not_called_damaged,
    damage::a_file_system_that_cannot_grow_is_used_as_it_is,
    damage::one_that_went_read_only_is_told_and_goes_to_no_further_pod,
    damage::an_error_in_a_file_system_is_told,
    damage::a_device_that_is_gone_is_the_volume_s_trouble,
    damage::who_looks_for_a_moment_is_waited_for,
    handles::two_handles_of_one_image_are_staged_one_after_the_other,
    handles::two_handles_of_one_image_at_the_same_moment_give_one_device,
    handles::what_a_person_uses_is_neither_taken_over_nor_away,
    handles::a_mount_whose_device_is_gone_is_staged_anew,
    handles::a_volume_that_is_still_in_use_as_itself_is_staged_beside_it,
    handles::an_image_with_another_name_is_known_by_its_id,
    handles::a_static_volume_of_another_pool_is_another_one,
    identity::a_replaced_image_is_staged_as_one_and_the_same,
    identity::a_read_only_volume_is_published_again,
    refusals::calls_in_the_wrong_order,
    refusals::what_is_never_staged,
    refusals::a_volume_of_some_service_accounts,
    refusals::what_is_not_the_volumes_is_not_touched,
    refusals::what_is_bound_is_the_mount_that_was_proven,
    refusals::a_volume_that_was_half_unstaged_is_staged_again,
    refusals::who_uses_it_is_named,
    restored::restored_volumes_are_as_large_as_their_image_and_live_beside_their_source,
    restored::what_grew_when_it_was_staged_can_be_snapshotted_at_once,
    restored::what_was_snapshotted_before_its_first_pod_is_formatted_at_its_own,
    restored::a_volume_is_flattened_under_its_writer,
    shutdown::systemd_is_told_what_needs_the_network,
    shutdown::a_node_without_the_table_or_with_its_lock_held_stages,
    takeover::what_ceph_csi_staged_is_taken_over,
    takeover::a_lost_stash_is_found_again,
    takeover::static_volumes_are_staged_and_never_formatted,
    takeover::no_format_mark_stays_on_what_is_given_out,
);

#[test]
fn what_fails_while_staging_is_undone_and_can_be_repeated() {
    once("failures::while_staging");
}

#[test]
fn what_fails_while_unstaging_can_be_repeated() {
    once("failures::while_unstaging");
}

/// A part that arms faults by itself.
fn once(test: &str) {
    let plan = lab().dir.join(test.replace(':', "_"));
    std::fs::write(&plan, "").unwrap();
    println!("{}", inside().with("RBD_CSI_FAULTS", plan.to_str().unwrap()).run(test));
}

#[test]
fn after_a_reboot_nothing_is_published_before_it_is_staged() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let part = Inside::new(&lab).of(lab.cluster(0)).with("LAB_DIR", lab.dir.to_str().unwrap());
    part.run("module::a_driver_that_starts_loads_it");
    part.run("life::before_the_reboot");
    lab.node(0).kill();
    lab.node(0).start();
    part.run("life::after_the_reboot");
}

#[test]
fn a_node_that_is_cut_off_stages_and_unstages_when_it_is_back() {
    let lab = Lab::start(LabSpec { clusters: 1, nodes: 1 });
    let ready = lab.dir.join("ready");
    let part = Inside::new(&lab)
        .of(lab.cluster(0))
        .with("LAB_DIR", lab.dir.to_str().unwrap())
        .with("READY", ready.to_str().unwrap());
    let mut running = part.command("life::cut_off_and_back").spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(400);
    for (wish, answer) in [
        ("cut", "is-cut"),
        ("join", "is-joined"),
        ("cut-again", "is-cut-again"),
        ("join-again", "is-joined-again"),
    ] {
        while !ready.with_extension(wish).exists() {
            assert!(Instant::now() < until, "no {wish}");
            if let Some(status) = running.try_wait().unwrap() {
                panic!("ended before {wish}: {status}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        if wish.starts_with("cut") {
            lab.node(0).cut()
        } else {
            lab.node(0).join()
        }
        std::fs::write(ready.with_extension(answer), "").unwrap();
    }
    assert!(running.wait().unwrap().success());
}
