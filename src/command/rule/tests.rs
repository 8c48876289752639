use crate::command::Table;
use crate::command::sample::Sample;
use crate::resp::convert::Rule;

#[track_caller]
fn takes(line: &str, expected: Rule) {
    let table = Table::builtin();
    let name = line.split(' ').next().unwrap_or_default();
    let row = table.find(name.as_bytes()).expect("a row");
    assert_eq!(row.rule(Sample::of(line).args()), expected, "{line}");
}

#[test]
fn pairs_are_flattened_only_where_scores_were_asked_for() {
    takes("ZRANGE k 0 -1", Rule::General);
    takes("ZRANGE k 0 -1 WithScores", Rule::Flatten);
    takes("ZRANGE k 0 -1 REV LIMIT 0 5 WITHSCORES", Rule::Flatten);
    takes("ZRANGE withscores 0 -1", Rule::General);
    takes("ZRANGE k withscores withscores BYLEX", Rule::General);
    takes("ZRANGE k 0 1 BYSCORE LIMIT withscores 1", Rule::General);
    takes("ZREVRANGEBYSCORE k 1 0 WITHSCORES LIMIT 0 1", Rule::Flatten);
    takes("ZRANGEBYLEX k - + WITHSCORES", Rule::General);
}

#[test]
fn a_key_or_weight_that_reads_like_the_option_is_none() {
    takes("ZUNION 1 withscores", Rule::General);
    takes("ZUNION 1 k WITHSCORES", Rule::Flatten);
    takes("ZINTER 2 a b WEIGHTS 1 withscores", Rule::General);
    takes("ZINTER 2 a b WEIGHTS 1 2 AGGREGATE withscores", Rule::General);
    takes("ZINTER 2 a b AGGREGATE MAX WEIGHTS 1 2 WITHSCORES", Rule::Flatten);
    takes("ZDIFF 2 a b withscores", Rule::Flatten);
    takes("ZDIFF 9999999999 a WITHSCORES", Rule::General);
    takes("ZDIFF x a WITHSCORES", Rule::General);
}

#[test]
fn a_count_changes_the_shape() {
    takes("ZPOPMIN k", Rule::General);
    takes("ZPOPMIN k 1", Rule::Flatten);
    takes("LPOP k", Rule::General);
    takes("RPOP k 1", Rule::NullArray);
    takes("HRANDFIELD k 2", Rule::General);
    takes("HRANDFIELD k 2 withvalues", Rule::Flatten);
    takes("HRANDFIELD withvalues", Rule::General);
    takes("ZRANDMEMBER k 2 WITHSCORES", Rule::Flatten);
    takes("ZRANK k m WITHSCORE", Rule::NullArray);
    takes("ZRANK k withscore", Rule::General);
}

#[test]
fn commands_with_one_form() {
    takes("LMPOP 1 k LEFT", Rule::NullArray);
    takes("ZMPOP 1 k MIN", Rule::NullArray);
    takes("BLPOP k 0", Rule::NullArray);
    takes("BLMOVE a b LEFT LEFT 0", Rule::NullArray);
    takes("XREAD STREAMS k 0", Rule::Streams);
    takes("XREADGROUP GROUP g c STREAMS k >", Rule::Streams);
    takes("GEOPOS k m", Rule::NullElements);
    takes("EVAL script 0", Rule::General);
    takes("LPOS k m COUNT 1", Rule::General);
}
