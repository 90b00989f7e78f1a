# synchronous_mode_strict: without a standby writes wait, and it stays in the rule: it has everything
# that was acknowledged, so it may succeed when it is back first.
nodes 2 minimum_k=1
kill node s1
wait 3
  never old rule
kill node old
start s1
  s1 primary
start old
settle
