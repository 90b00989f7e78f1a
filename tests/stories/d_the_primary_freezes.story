# The primary's node freezes and thaws as a primary of the past: its guard stops it first.
nodes 3
freeze old
  any suspect nothing was heard of old
  new primary
wait 15
thaw old
  old says its authority ran out
settle
