# With two nodes a standby that is gone leaves the rule at once, so that writes go on.
nodes 2
kill node s1
  old rule s1 is gone: the rule becomes the primary alone
wait 3
  never any election
start s1
  old rule s1 streams
settle
