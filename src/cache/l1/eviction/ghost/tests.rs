use super::*;

#[test]
fn the_ghost_remembers_about_as_many_tags_as_it_is_asked_to() {
    let mut ghost = Ghost::new();
    assert!(!ghost.forget(5));
    (1..=1000).for_each(|tag| ghost.remember(tag, 1000));
    let kept = (1..=1000).filter(|&tag| ghost.forget(tag)).count();
    assert!(kept > 800, "{kept}");
    assert_eq!((1..=1000).filter(|&tag| ghost.forget(tag)).count(), 0);
    (1..=100_000).for_each(|tag| ghost.remember(tag, 1000));
    assert!(ghost.forget(100_000) && !ghost.forget(1));
    assert_eq!(ghost.sets.len() * WAYS, 1024);
}

#[test]
fn a_tag_is_remembered_once() {
    let mut ghost = Ghost::new();
    for _ in 0..20 {
        ghost.remember(7, 8);
    }
    assert!(ghost.forget(7) && !ghost.forget(7));
}
