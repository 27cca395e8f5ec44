// Formulas come from pymdownx.arithmatex in generic mode: \(...\) and \[...\].
window.MathJax = {
  tex: {inlineMath: [['\\(', '\\)']], displayMath: [['\\[', '\\]']], processEscapes: true},
  options: {ignoreHtmlClass: '.*|', processHtmlClass: 'arithmatex'},
};
