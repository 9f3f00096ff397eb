use super::*;

#[test]
fn a_rotation_goes_through_its_phases_and_nothing_is_ever_not_believed() {
    let plane = Plane::new();
    let old = plane.issue();
    let before = plane.authority.bundle();
    let mut changes = plane.authority.watch();
    plane.step(Step::Introduce).expect("introduced");
    assert!(changes.has_changed().expect("open"));
    changes.mark_unchanged();
    let both = plane.authority.bundle();
    assert_eq!((plane.phase(), both.certificates().count()), ("introduced", 2));
    let still_old = plane.issue();
    assert_eq!(believes(&before, &still_old.chain, start()), Ok(()), "the old root signs until the new one is known");
    plane.clock.advance(Duration::from_secs(300));
    plane.step(Step::Sign).expect("signing");
    assert!(!changes.has_changed().expect("open"), "the roots are the same");
    let new = plane.issue();
    let now = plane.clock.now();
    assert!(believes(&before, &new.chain, now).is_err());
    for issued in [&old, &new] {
        assert_eq!(believes(&plane.authority.bundle(), &issued.chain, now), Ok(()));
    }
    plane.clock.advance(DAY + Duration::from_secs(1));
    plane.step(Step::Retire).expect("retired");
    assert!(changes.has_changed().expect("open"));
    assert_eq!((plane.phase(), plane.authority.bundle().certificates().count()), ("stable", 1));
    let now = plane.clock.now();
    assert_eq!(believes(&plane.authority.bundle(), &plane.issue().chain, now), Ok(()));
    let actions: Vec<_> = plane.audit.events().iter().map(|event| event.action).collect();
    assert_eq!(actions, ["rotation.introduce", "rotation.sign", "rotation.retire"]);
}

#[test]
fn an_unsafe_step_is_refused_unless_it_is_forced() {
    let plane = Plane::new();
    plane.step(Step::Introduce).expect("introduced");
    let refused = plane.step(Step::Sign).expect_err("too early");
    assert!(refused.to_string().contains("wait another 300 s"), "{refused}");
    plane.clock.advance(Duration::from_secs(300));
    let late = Unconfirmed(vec![workload("payments-1")]);
    let refused = plane.authority.rotate(Step::Sign, Force::No, "test", &late).expect_err("not confirmed");
    assert!(refused.to_string().contains("have not confirmed the new root: shop/payments-1"), "{refused}");
    assert_eq!(plane.authority.status(&late).unconfirmed, ["shop/payments-1"]);
    assert_eq!(plane.phase(), "introduced");
    plane.authority.rotate(Step::Sign, Force::Yes, "test", &late).expect("forced");
    plane.clock.advance(DAY - Duration::from_secs(10));
    let refused = plane.step(Step::Retire).expect_err("certificates of the old root live");
    assert!(refused.to_string().contains("for another 11 s"), "{refused}");
    plane.authority.rotate(Step::Retire, Force::Yes, "test", &all()).expect("forced");
    assert_eq!(plane.phase(), "stable");
    let refused = plane.audit.events().into_iter().filter(|event| event.outcome == Outcome::Refused("unsafe")).count();
    assert_eq!(refused, 3, "refusals are on the record");
}

#[test]
fn who_cannot_confirm_holds_back_the_step_and_is_told_apart() {
    struct Files(Vec<WorkloadKey>, Vec<WorkloadKey>);
    impl Confirmations for Files {
        fn unconfirmed(&self, _bundle: &str) -> Vec<WorkloadKey> {
            self.0.clone()
        }

        fn silent(&self) -> Vec<WorkloadKey> {
            self.1.clone()
        }
    }
    let plane = Plane::new();
    plane.step(Step::Introduce).expect("introduced");
    plane.clock.advance(Duration::from_secs(300));
    let behind = Files(vec![workload("envoy-1"), workload("web-1")], vec![workload("envoy-1")]);
    assert_eq!(plane.authority.advance(&behind).expect("no failure"), None);
    let status = plane.authority.status(&behind);
    assert_eq!((status.silent.len(), status.unconfirmed.len()), (1, 2));
    let [late, cannot] = &status.objections[..] else { panic!("{:?}", status.objections) };
    assert!(late.ends_with("have not confirmed the new root: shop/web-1"), "{late}");
    assert!(cannot.contains("cannot confirm: shop/envoy-1;") && cannot.contains("--force"), "{cannot}");
    let behind = Files(vec![workload("envoy-1")], vec![workload("envoy-1")]);
    assert_eq!(plane.authority.advance(&behind).expect("no failure"), None, "never by itself");
    plane.authority.rotate(Step::Sign, Force::Yes, "test", &behind).expect("somebody has looked");
}

#[test]
fn every_other_step_is_refused_in_every_phase() {
    let plane = Plane::new();
    let steps = [Step::Introduce, Step::Sign, Step::Retire, Step::Withdraw];
    let refused = |allowed: &[Step]| {
        for step in steps.into_iter().filter(|step| !allowed.contains(step)) {
            let result = plane.authority.rotate(step, Force::Yes, "test", &all());
            assert!(matches!(result, Err(AuthorityError::WrongPhase { .. })), "{step:?} in {}", plane.phase());
        }
    };
    refused(&[Step::Introduce]);
    plane.step(Step::Introduce).expect("introduced");
    refused(&[Step::Sign, Step::Withdraw]);
    plane.clock.advance(HOUR);
    plane.step(Step::Sign).expect("signing");
    refused(&[Step::Retire]);
}

#[test]
fn a_new_root_can_be_withdrawn_before_it_signs() {
    let plane = Plane::new();
    let before = plane.authority.bundle_pem();
    plane.step(Step::Introduce).expect("introduced");
    plane.step(Step::Withdraw).expect("withdrawn");
    assert_eq!((plane.phase(), plane.authority.bundle_pem()), ("stable", before));
}

#[test]
fn each_phase_survives_a_restart() {
    let mut plane = Plane::new();
    for (step, phase) in [(Step::Introduce, "introduced"), (Step::Sign, "signing"), (Step::Retire, "stable")] {
        plane.authority.rotate(step, Force::Yes, "test", &all()).expect("a step");
        let (status, bundle) = (plane.authority.status(&all()), plane.authority.bundle_pem());
        plane = plane.reopened(|_| {});
        assert_eq!((plane.authority.status(&all()), plane.authority.bundle_pem()), (status, bundle));
        assert_eq!(plane.phase(), phase);
    }
}

#[test]
fn the_old_root_is_believed_as_long_as_the_longest_lifetime_that_it_ever_gave() {
    let plane = Plane::with(|settings| settings.lifetime = 48 * HOUR);
    let long = plane.issue();
    // The lifetime is shortened; what was issued before stays as it is.
    let plane = plane.reopened(|settings| settings.lifetime = HOUR);
    plane.step(Step::Introduce).expect("introduced");
    plane.clock.advance(HOUR);
    plane.step(Step::Sign).expect("signing");
    plane.clock.advance(2 * HOUR);
    assert!(matches!(plane.step(Step::Retire), Err(AuthorityError::Unsafe { .. })));
    plane.clock.advance(46 * HOUR);
    assert!(plane.clock.now() > long.not_after);
    plane.clock.advance(Duration::from_secs(1));
    plane.step(Step::Retire).expect("retired");
}

#[test]
fn a_proxy_that_missed_the_new_root_can_still_reach_the_control_plane() {
    let Plane { folder: _folder, clock, authority, .. } = Plane::new();
    let (authority, missed) = (Arc::new(authority), all());
    let serving = Serving::new(Arc::clone(&authority), ServingNames::default()).expect("a certificate");
    let known = authority.bundle();
    let served = |bundle: &Bundle| believes(bundle, &serving.certified().cert, clock.now());
    authority.rotate(Step::Introduce, Force::No, "test", &missed).expect("introduced");
    clock.advance(HOUR);
    authority.rotate(Step::Sign, Force::No, "test", &missed).expect("signing");
    clock.advance(20 * HOUR);
    assert_eq!(served(&known), Ok(()), "renewed meanwhile, and under the old root");
    clock.advance(5 * HOUR);
    authority.rotate(Step::Retire, Force::No, "test", &missed).expect("retired");
    assert_eq!(served(&authority.bundle()), Ok(()), "and at once under the new one when the old one is gone");
}

#[test]
fn a_rotation_goes_on_by_itself_when_it_is_safe() {
    let plane = Plane::with(|settings| settings.root_lifetime = 30 * DAY);
    let advance = |unconfirmed: &Unconfirmed| plane.authority.advance(unconfirmed).expect("no failure");
    plane.clock.advance(19 * DAY);
    assert_eq!(advance(&all()), None);
    plane.clock.advance(DAY + HOUR);
    assert_eq!(advance(&all()), Some(Step::Introduce));
    assert_eq!(advance(&all()), None, "not yet settled");
    plane.clock.advance(HOUR);
    assert_eq!(advance(&Unconfirmed(vec![workload("a")])), None, "somebody has not confirmed");
    assert_eq!(advance(&all()), Some(Step::Sign));
    plane.clock.advance(23 * HOUR);
    assert_eq!(advance(&all()), None);
    plane.clock.advance(2 * HOUR);
    assert_eq!(advance(&all()), Some(Step::Retire));
    assert_eq!(advance(&all()), None, "the new root is young");
    let plane = plane.reopened(|settings| settings.automatic = false);
    plane.clock.advance(29 * DAY);
    assert_eq!(plane.authority.advance(&all()).expect("no failure"), None);
}
