#pragma once

#include <string>

namespace lockstep::test {

/// Writes masked.h5: documents of tokens, labels of the next place and a mask in chunks of their own sizes, and where documents
/// begin. Prints the inputs of rows of 16 that stay inside documents, a line end, their targets.
inline const std::string masked_documents = R"(
np.random.seed(9)
t, m = np.random.randint(0, 200, 3000), np.random.randint(0, 2, 3000)
starts = np.sort(np.random.choice(np.arange(1, 3000), 60, replace=False))
with h5.File('masked.h5', 'w') as f:
    f.create_dataset('tokens', data=t.astype('u2'), chunks=(128,), compression='gzip', fletcher32=True)
    f.create_dataset('mask', data=m.astype('u1'), chunks=(100,), compression='gzip')
    f['starts'] = starts.astype('>u4')
x, y = [], []
for begin, end in zip([0, *starts], [*starts, 3000]):
    for at in range(begin, end - 1, 16) if end - begin >= 17 else []:
        at = min(at, end - 17)
        x.append(t[at:at + 16]); y.append(np.where(m[at + 1:at + 17], t[at + 1:at + 17], -100))
print(*np.ravel(x)); print(*np.ravel(y))
)";

}  // namespace lockstep::test
